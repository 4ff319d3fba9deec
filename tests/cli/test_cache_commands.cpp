#include <chrono>

#include "autotune/fingerprint.h"
#include "autotune/registry.h"
#include "cache/block_list.h"
#include "cache/exchange.h"
#include "cache/record_store.h"
#include "cache/timestamp.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "templates/embedded.h"
#include "templates/gemm/gemm.h"
#include "tests/cli/quern.h"

namespace fs = std::filesystem;
using namespace quern;
using quern::test::ProcessOptions;
using quern::test::Quern;

namespace {

/// A record in the exported form that no family declares: well formed, but refused by name.
json stranger() {
  return {{"family", "stranger"},
          {"problem", {{"n", 1}}},
          {"config", {{"tile", 1}}},
          {"template_hash", std::string(32, 'a')},
          {"fingerprint", {{"name", "GPU"}, {"compute_capability", "9.0"}}},
          {"median_us", 1.0},
          {"spread_us", 0.1},
          {"num_samples", 5},
          {"default_us", 2.0},
          {"error", 0.0},
          {"measured_at", "2026-01-31T12:00:00Z"},
          {"imported", false}};
}

json document(json records) { return {{"quern_tuning", 1}, {"records", std::move(records)}}; }

const ordered_json kHopper = {
    {"name", "NVIDIA H200"}, {"compute_capability", "9.0"}, {"num_sms", 132},
    {"l2_bytes", 62914560},  {"memory_clock_khz", 3201000}, {"memory_bus_bits", 6144},
    {"power_limit_w", 700},  {"driver", "580.95.05"}};

/// A record that the gemm family of an H200 takes.
TuningRecord gemm(int m) {
  const FamilyRegistry families = FamilyRegistry::shipped(template_files(std::nullopt));
  const Family& family = families.at("gemm");
  TuningRecord r;
  r.family = "gemm";
  r.problem = to_params(GemmProblem{.m = m, .n = 4096, .k = 4096});
  r.fingerprint = kHopper;
  r.config = family.candidates(r.problem, arch_of_fingerprint(kHopper)).front();
  r.template_hash = std::string(32, 'a');
  r.median_us = 20;
  r.default_us = 30;
  r.spread_us = 0.5;
  r.num_samples = 31;
  r.measured_at = "2026-01-31T12:00:00Z";
  r.nvrtc = "13.0.88";
  return r;
}

}  // namespace

TEST_CASE("an empty cache answers every question") {
  const Quern quern;
  CHECK(quern.json_of({"cache", "path"})["path"] == quern.path("cache").string());
  CHECK(quern.json_of({"cache", "ls"})["records"] == json::array());
  const json intact = quern.json_of({"cache", "verify"});
  CHECK(intact["images"] == 0);
  CHECK(intact["records"] == 0);
  CHECK(quern.json_of({"cache", "prune"})["removed"] == 0);
  for (const char* command : {"path", "ls", "verify", "prune"})
    CHECK(quern({"cache", command}).exit_code == 0);
}

TEST_CASE("what is exported can be imported") {
  const Quern quern;
  // Put where a tuner would: the store, not the import, wrote this record.
  json record = stranger();
  const TuningRecord own = tuning_record_from_json(ordered_json(record));
  RecordStore(quern.path("cache"), own.fingerprint).append(std::vector{own});
  CHECK(quern.json_of({"cache", "ls"})["records"].size() == 1);
  const std::string file = quern.path("export.json");
  CHECK(quern.json_of({"cache", "export", file})["exported"] == 1);
  const json document = json::parse(read_file(file));
  CHECK(document["records"][0]["median_us"] == record["median_us"]);
  CHECK(document["devices"][document["records"][0]["device"].get<std::string>()] ==
        record["fingerprint"]);
  const json report = quern.json_of({"cache", "import", file});
  CHECK(report["imported"] == 0);
  REQUIRE(report["refused"].size() == 1);
  CHECK(report["refused"][0].get<std::string>().find("stranger") != std::string::npos);
}

TEST_CASE("files that hold no records are refused whole") {
  const Quern quern;
  const std::string file = quern.path("import.json");
  const auto refused = [&](const std::string& text, const std::string& fragment) {
    write_file_atomically(file, text);
    quern.refuses({"cache", "import", file}, 2, fragment);
  };
  const std::string good = document({stranger()}).dump();
  refused("", "not JSON");
  refused(good.substr(0, good.size() / 2), "not JSON");
  refused(std::string("\x7f"
                      "ELF\0\0\0",
                      7),
          "not JSON");
  refused(std::string(300'000, '['), "not JSON");
  refused("[]", "quern_tuning");
  refused("{}", "quern_tuning");
  refused(R"({"quern_tuning": 3, "records": []})", "version");
  refused(R"({"quern_tuning": 2, "records": []})", "devices");
  refused(R"({"quern_tuning": "1", "records": []})", "version");
  refused(R"({"quern_tuning": 1})", "records");
  refused(R"({"quern_tuning": 1, "records": {}})", "records");
  quern.refuses({"cache", "import", quern.path("missing")}, 2, "cannot read");
  quern.refuses({"cache", "import", quern.path("")}, 2, "cannot read");
  quern.refuses({"cache", "import"}, 2, "FILE");
  CHECK_FALSE(fs::exists(quern.path("cache/tuning")));
}

TEST_CASE("hostile records are refused one by one") {
  const Quern quern;
  json records = json::array({7, nullptr, json::array(), json::object()});
  const auto add = [&](const char* key, json value) {
    json record = stranger();
    record[key] = std::move(value);
    records.push_back(std::move(record));
  };
  add("family", "../../etc/passwd");
  add("family", "row\"); system(\"true\"); (\"");
  add("config", {{"tile", "#include </etc/passwd>"}});
  add("config", {{"tile", {{"deep", 1}}}});
  add("fingerprint", {{"name", "\x1b[31m"}, {"compute_capability", "9.0"}});
  add("fingerprint", {{"name", "GPU"}, {"compute_capability", "999999999999.1"}});
  add("median_us", -1);
  add("median_us", "fast");
  add("num_samples", 1e99);
  add("template_hash", "../x");
  add("unknown", 1);
  const std::string file = quern.path("import.json");
  write_file_atomically(file, document(records).dump());
  const json report = quern.json_of({"cache", "import", file});
  CHECK(report["imported"] == 0);
  CHECK(report["refused"].size() == records.size());
  const auto text = quern({"cache", "import", file});
  CHECK(text.exit_code == 0);
  CHECK(text.err.find('\x1b') == std::string::npos);
}

TEST_CASE("a cache that cannot serve is refused with a sentence") {
  const Quern quern;
  const auto refused = [&](const std::string& cache, const std::vector<std::string>& words) {
    Quern::check_refusal(quern(words, {.environment = {{"QUERN_CACHE", cache}}}), 2, cache, words);
  };
  for (const char* cache : {"/dev/null/x", "/dev/null"}) {
    refused(cache, {"cache", "verify"});
    refused(cache, {"cache", "prune"});
    refused(cache, {"cache", "ls"});
    refused(cache, {"cache", "export", quern.path("export.json")});
  }
  for (const auto writers : {fs::perms::group_write, fs::perms::others_write}) {
    const fs::path shared = quern.path("shared");
    fs::create_directory(shared);
    fs::permissions(shared, fs::perms::owner_all | writers);
    for (const char* command : {"ls", "verify", "prune"})
      refused(shared.string(), {"cache", command});
  }
  CHECK_FALSE(fs::exists(quern.path("export.json")));
}

TEST_CASE("cache options without meaning are refused, and exports leave nothing half-written") {
  const Quern quern;
  for (const char* days : {"nan", "-1", "soon", "1e300"})
    quern.refuses({"cache", "prune", "--days", days}, 2, "--days");
  quern.refuses({"cache", "export", quern.path("nowhere/e.json")}, 2, "cannot write");
  quern.refuses({"cache", "export", "/dev/full"}, 2, "cannot write");
  quern.refuses({"cache", "export"}, 2, "FILE");
  for (const char* size : {"nan", "-1", "4X", "1e9", "4GB", " 1", "99999999999999999999", "20000000T"})
    quern.refuses({"cache", "prune", "--max-bytes", size}, 2, "--max-bytes");
  for (const char* size : {"-1", "much", "4 G"})
    Quern::check_refusal(quern({"cache", "ls"}, {.environment = {{"QUERN_CACHE_MAX", size}}}), 2,
                         "QUERN_CACHE_MAX", {"cache", "ls"});
}

TEST_CASE("the list says how fast, how old and from where, and takes odd records") {
  const Quern quern;
  RecordStore store(quern.path("cache"), kHopper);
  TuningRecord own = gemm(256);
  own.default_us = 2 * own.median_us;
  own.measured_at = timestamp(wall_clock() - std::chrono::hours(75));
  TuningRecord imported = gemm(512);
  imported.imported = true;
  imported.measured_at = "2999-01-31T12:00:00Z";
  store.append(std::vector{own, imported});
  TuningRecord odd = tuning_record_from_json(ordered_json(stranger()));
  odd.fingerprint = {{"name", 7}};
  odd.median_us = 0;
  odd.measured_at = "2026-99-99T99:99:99Z";
  RecordStore(quern.path("cache"), odd.fingerprint).append(odd);

  const json records = quern.json_of({"cache", "ls"})["records"];
  REQUIRE(records.size() == 3);
  for (const json& record : records) {
    if (record["family"] == "stranger") {
      CHECK(record["percent_of_peak"].is_null());
      CHECK(record["speedup"].is_null());
      CHECK(record["age_seconds"].is_null());
      continue;
    }
    // 4096 x 4096 weights, and activations, of bf16 in 20 us from a memory of 4.9 TB/s.
    CHECK(record["percent_of_peak"] > 30);
    CHECK(record["percent_of_peak"] < 45);
    const bool is_own = record["origin"] == "own";
    CHECK(record["origin"] == (is_own ? "own" : "imported"));
    CHECK(record["speedup"] == (is_own ? 2.0 : 1.5));
    if (is_own)
      CHECK(record["age_seconds"] >= 75 * 3600);
    else
      CHECK(record["age_seconds"] == 0);
  }
  const auto text = quern({"cache", "ls"});
  CHECK(text.exit_code == 0);
  CHECK(text.out.find("% of peak GB/s") != std::string::npos);
  CHECK(text.out.find("2.00x  3 d") != std::string::npos);
  CHECK(text.out.find("3 records, 0 damaged lines") != std::string::npos);
  CHECK(quern({"cache", "verify"}).out.find("in form only") != std::string::npos);
  CHECK(quern.json_of({"cache", "verify"})["gated"] == false);
}

TEST_CASE("blocked candidates are listed with their reasons") {
  const Quern quern;
  CHECK(quern.json_of({"cache", "ls", "--blocked"})["blocked"] == json::array());
  BlockList list(quern.path("cache"), kHopper);
  const TuningRecord r = gemm(16);
  list.append({r.family, r.problem, r.config, r.template_hash, "launch_failed",
               "illegal address\x1b[31m\n", ""});
  const json blocked = quern.json_of({"cache", "ls", "--blocked"})["blocked"];
  REQUIRE(blocked.size() == 1);
  CHECK(blocked[0]["status"] == "launch_failed");
  CHECK(blocked[0]["fingerprint"]["name"] == "NVIDIA H200");
  const auto text = quern({"cache", "ls", "--blocked"});
  CHECK(text.out.find("illegal address") != std::string::npos);
  CHECK(text.out.find('\x1b') == std::string::npos);
  CHECK(quern.json_of({"cache", "ls"})["records"].empty());
}

TEST_CASE("a system cache is shown, listed and exported, and never touched") {
  const Quern quern;
  const std::string system = quern.path("system");
  RecordStore(system, kHopper).append(gemm(256));
  ImageStore(system).put(content_hash("k"), {"source", "image", ordered_json::object(), ""});
  const ProcessOptions options{.environment = {{"QUERN_SYSTEM_CACHE", system}}};
  const auto ask = [&](std::vector<std::string> words) {
    words.push_back("--json");
    const auto result = quern(words, options);
    INFO(result.err);
    REQUIRE(result.exit_code == 0);
    return json::parse(result.out);
  };
  CHECK(ask({"cache", "path"})["system_path"] == system);
  CHECK(ask({"cache", "path"})["system_state"] == "only read");
  CHECK(ask({"cache", "ls"})["records"][0]["origin"] == "system");
  CHECK(ask({"cache", "export", quern.path("e.json")})["exported"] == 1);
  CHECK(ask({"cache", "prune", "--days", "0", "--max-bytes", "0"})["removed"] == 0);
  CHECK_FALSE(fs::exists(quern.path("cache")));
  fs::permissions(system, fs::perms::others_write, fs::perm_options::add);
  CHECK(ask({"cache", "ls"})["records"].empty());
  CHECK(ask({"cache", "path"})["system_state"].get<std::string>().find("every user may write") !=
        std::string::npos);
}

TEST_CASE("what one cache exports another one imports") {
  const Quern from, to;
  RecordStore(from.path("cache"), kHopper).append(std::vector{gemm(256), gemm(512)});
  const std::string file = from.path("tuning.json");
  from.json_of({"cache", "export", file});
  const json report = to.json_of({"cache", "import", file});
  CHECK(report["imported"] == 2);
  CHECK(report["graded"] == false);  // there is no GPU here
  CHECK(report["refused"].empty());
  CHECK(to.json_of({"cache", "import", file})["kept"] == 2);
  const json records = to.json_of({"cache", "ls"})["records"];
  REQUIRE(records.size() == 2);
  CHECK(records[0]["origin"] == "imported");
  // A second export says the same.
  const std::string again = to.path("tuning.json");
  to.json_of({"cache", "export", again});
  CHECK(read_file(again) == read_file(file));
}

TEST_CASE("images of an import are taken over only where they are trusted") {
  const Quern quern;
  const std::string file = quern.path("images.json");
  const std::string key = content_hash("k");
  write_file_atomically(file, export_text({gemm(256)}, {{key,
                                                         {"source",
                                                          "\x7f"
                                                          "ELF",
                                                          {{"registers", 8}},
                                                          "log"}}}));
  json report = quern.json_of({"cache", "import", file});
  CHECK(report["images"] == 0);
  CHECK(report["images_ignored"] == 1);
  CHECK_FALSE(fs::exists(quern.path("cache/images")));
  CHECK(quern({"cache", "import", file}).out.find("code from elsewhere") != std::string::npos);
  report = quern.json_of({"cache", "import", file, "--trust-images"});
  CHECK(report["images"] == 1);
  CHECK(ImageStore(quern.path("cache")).find(key)->image ==
        "\x7f"
        "ELF");
}

TEST_CASE("two exports merge into one, by the stated rules") {
  const Quern quern;
  const std::string a = quern.path("a.json"), b = quern.path("b.json"), c = quern.path("c.json");
  TuningRecord newer = gemm(256);
  newer.nvrtc = "13.1.0";
  newer.median_us = 99;
  TuningRecord odd = gemm(1024);
  odd.family = "stranger";
  write_file_atomically(a, export_text({gemm(256), gemm(512)}));
  write_file_atomically(b, export_text({newer, odd}));
  const json report = quern.json_of({"cache", "merge", a, b, "--out", c});
  CHECK(report["merged"] == 2);
  CHECK(report["conflicts"] == 1);
  CHECK(report["refused"].size() == 1);
  CHECK(read_file(c) == export_text({newer, gemm(512)}));
  quern.json_of({"cache", "merge", b, a, "--out", c});
  CHECK(read_file(c) == export_text({newer, gemm(512)}));
  quern.refuses({"cache", "merge", a, b}, 2, "--out");
  quern.refuses({"cache", "merge", a, "--out", c}, 2, "B");
  quern.refuses({"cache", "merge", a, quern.path("no.json"), "--out", c}, 2, "cannot read");
  write_file_atomically(b, "{}");
  quern.refuses({"cache", "merge", a, b, "--out", c}, 2, "quern_tuning");
  CHECK(read_file(c) == export_text({newer, gemm(512)}));
  for (const char* command : {"merge", "import"}) {
    const std::string help = quern({"cache", command, "--help"}).out;
    for (const char* rule : {"newer NVRTC", "tighter", "faster"})
      CHECK(help.find(rule) != std::string::npos);
  }
}

TEST_CASE("images are kept within a size, by hand and after a command that made some") {
  const Quern quern;
  ImageStore store(quern.path("cache"));
  for (int i = 0; i < 4; ++i)
    store.put(content_hash(std::to_string(i)),
              {"s", std::string(1000, 'x'), ordered_json::object(), ""});
  const auto bytes = store.verify()[0].bytes;
  CHECK(quern.json_of({"cache", "prune", "--max-bytes", "1M"})["removed"] == 0);
  const json pruned = quern.json_of({"cache", "prune", "--max-bytes", std::to_string(3 * bytes)});
  CHECK(pruned["removed"] == 1);
  CHECK(pruned["bytes"] == bytes);
  // Nothing was made, so nothing is looked at.
  CHECK(quern({"cache", "ls"}, {.environment = {{"QUERN_CACHE_MAX", "1"}}}).exit_code == 0);
  CHECK(store.verify().size() == 3);
  const std::string file = quern.path("images.json");
  write_file_atomically(
      file, export_text({}, {{content_hash("k"), {"s", "x", ordered_json::object(), ""}}}));
  CHECK(quern({"cache", "import", file, "--trust-images"},
              {.environment = {{"QUERN_CACHE_MAX", std::to_string(2 * bytes)}}})
            .exit_code == 0);
  CHECK(store.verify().size() < 4);
}
