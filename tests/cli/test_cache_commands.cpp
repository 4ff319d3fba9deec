#include "cache/record_store.h"
#include "runtime/base/file.h"
#include "tests/cli/quern.h"

namespace fs = std::filesystem;
using namespace quern;
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
  CHECK(json::parse(read_file(file))["records"][0] == record);
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
  refused(R"({"quern_tuning": 2, "records": []})", "version");
  refused(R"({"quern_tuning": "1", "records": []})", "version");
  refused(R"({"quern_tuning": 1})", "records");
  refused(R"({"quern_tuning": 1, "records": {}})", "records");
  quern.refuses({"cache", "import", quern.path("missing")}, 2, "cannot read");
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
}
