// What a file from anywhere may hold: whatever it is, some records are refused with a sentence, and
// nothing of it becomes a path or source.
#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "autotune/import.h"
#include "autotune/problem.h"
#include "cache/exchange.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/scale_family.h"
#include "tests/support/support.h"

using namespace quern;
using test::ScaleFamily;
namespace fs = std::filesystem;

namespace {

const ordered_json kDevice = {{"name", "NVIDIA H200"}, {"compute_capability", "9.0"}};

ordered_json record() {
  return {{"device", "d"},
          {"family", "scale"},
          {"problem", {{"n", 1024}, {"scale", 3}}},
          {"config", {{"threads", 128}, {"fault", 0}}},
          {"template_hash", std::string(32, 'a')},
          {"nvrtc", "13.0.88"},
          {"median_us", 5.5},
          {"spread_us", 0.1},
          {"num_samples", 31},
          {"default_us", 6.5},
          {"error", 0.25},
          {"measured_at", "2026-01-31T12:00:00Z"},
          {"energy_mj", 1.5}};
}

ordered_json document(ordered_json records) {
  return {{"quern_tuning", 2}, {"devices", {{"d", kDevice}}}, {"records", std::move(records)}};
}

FamilyRegistry families() {
  FamilyRegistry out(ScaleFamily::templates());
  out.add(std::make_unique<ScaleFamily>());
  return out;
}

const std::vector<std::string>& hostile_strings() {
  static const std::vector<std::string> strings{
      "",
      "\"",
      "\\",
      "'; rm -rf ~; '",
      "line\nline",
      "\r\n#include \"/etc/passwd\"\n",
      "#include </etc/passwd>",
      "\"}; __device__ void f() { asm(\"trap;\"); } struct X { const char* s = \"",
      "*/ int x; /*",
      "../../../../tmp/quern-escape",
      "/etc/passwd",
      "..",
      "%s%s%s%n",
      "{}",
      "$(touch /tmp/quern-escape)",
      std::string(1, '\0'),
      "a\0b",
      "\x1b[31m",
      "\xc3\xa9",
      "\xe2\x80\xae",
      std::string(1000, 'a'),
      std::string(1 << 20, 'a'),
      "NaN",
      "1e999",
      "-1",
  };
  return strings;
}

std::vector<ordered_json> hostile_values() {
  std::vector<ordered_json> values{nullptr,
                                   true,
                                   -1,
                                   0,
                                   1e300,
                                   -1e300,
                                   1e-320,
                                   0.5,
                                   std::numeric_limits<std::int64_t>::min(),
                                   std::numeric_limits<std::uint64_t>::max(),
                                   ordered_json::array(),
                                   ordered_json::object(),
                                   ordered_json::array({1}),
                                   ordered_json{{"key", {{"deeper", {{"still", 1}}}}}},
                                   ordered_json{{"../../x", 1}},
                                   ordered_json{{"#include", "x"}}};
  for (const std::string& text : hostile_strings()) values.push_back(text);
  return values;
}

/// Every copy of `good` in which one value, at any depth, is hostile, or one key is.
std::vector<ordered_json> variants(const ordered_json& good) {
  std::vector<ordered_json> out;
  std::vector<ordered_json::json_pointer> places;
  const std::function<void(const ordered_json&, const ordered_json::json_pointer&)> collect =
      [&](const ordered_json& value, const ordered_json::json_pointer& at) {
        for (const auto& [key, member] : value.items()) {
          places.push_back(at / key);
          if (member.is_object()) collect(member, at / key);
        }
      };
  collect(good, ordered_json::json_pointer());
  for (const auto& place : places) {
    for (const ordered_json& value : hostile_values()) {
      out.push_back(good);
      out.back()[place] = value;
    }
    for (const std::string& key : hostile_strings()) {
      out.push_back(good);
      ordered_json& parent = out.back()[place.parent_pointer()];
      ordered_json value = parent[place.back()];
      parent.erase(place.back());
      parent[key] = std::move(value);
    }
  }
  return out;
}

/// Imports into a fresh cache and looks at all that came of it. Returns how many were accepted.
std::size_t check_harmless(const std::string& text) {
  const test::TemporaryFolder folder;
  const fs::path root = folder.path() / "cache";
  const FamilyRegistry registry = families();
  ImportReport report;
  try {
    report = import_records(text, registry, root);
  } catch (const InputError& error) {
    CHECK_EQ(std::string(error.what()).find('\n'), std::string::npos);
    CHECK(fs::is_empty(folder.path()));
    return 0;
  }
  for (const std::string& sentence : report.refused) {
    CHECK(std::all_of(sentence.begin(), sentence.end(),
                      [](char c) { return c >= ' ' && c <= '~' && c != '#' && c != '\\'; }));
    CHECK_LT(sentence.size(), 2000);
  }
  // Nothing but files that are named by a hash.
  for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
    const std::string name = fs::relative(entry.path(), folder.path()).string();
    if (name == "cache" || name == "cache/tuning") continue;
    CAPTURE(name);
    REQUIRE(name.starts_with("cache/tuning/"));
    CHECK(name.ends_with(".jsonl"));
    CHECK_EQ(name.find_first_not_of("0123456789abcdef", 13), name.size() - 6);
  }
  // What would be compiled is what the family writes for a config of its space.
  const Family& family = registry.at("scale");
  std::size_t num_damaged = 0;
  const auto records = all_records(root, &num_damaged);
  CHECK_EQ(num_damaged, 0);
  for (const TuningRecord& r : records) {
    const std::string source = family.source(r.problem, r.config, known_archs().front()).source;
    const std::string clean = family
                                  .source({{"n", 1}, {"scale", r.problem["scale"].get<int>()}},
                                          {{"threads", r.config["threads"].get<int>()},
                                           {"fault", r.config["fault"].get<int>()}},
                                          known_archs().front())
                                  .source;
    CHECK_EQ(source, clean);
    CHECK(r.imported);
  }
  return report.accepted;
}

}  // namespace

TEST_CASE("the document that the hostile ones are made of is good") {
  CHECK_EQ(check_harmless(document(ordered_json::array({record()})).dump()), 1);
}

TEST_CASE("hostile values and names anywhere in a record do no harm") {
  ordered_json records = ordered_json::array();
  for (ordered_json& variant : variants(record())) records.push_back(std::move(variant));
  REQUIRE_GT(records.size(), 800);
  // What is left is the problem "n": 1024 and "scale": 3 with harmless changes (another median), of
  // which one counts, and those of another legal n or scale.
  CHECK_LE(check_harmless(document(records).dump()), 4);
}

TEST_CASE("hostile values and names anywhere in a device do no harm") {
  const auto devices = variants(kDevice);
  for (std::size_t first = 0; first < devices.size(); first += 200) {
    ordered_json records = ordered_json::array();
    ordered_json all = document(ordered_json::array());
    for (std::size_t i = first; i < std::min(first + 200, devices.size()); ++i) {
      const std::string name = "d" + std::to_string(i);
      all["devices"][name] = devices[i];
      all["records"].push_back(record());
      all["records"].back()["device"] = name;
    }
    check_harmless(all.dump());
  }
}

TEST_CASE("hostile names of devices and hostile outlines do no harm") {
  const ordered_json good = document(ordered_json::array({record()}));
  for (const std::string& name : hostile_strings()) {
    ordered_json renamed = good;
    renamed["devices"] = {{name, kDevice}};
    renamed["records"][0]["device"] = name;
    check_harmless(renamed.dump());
    ordered_json more = good;
    more[name] = name;
    check_harmless(more.dump());
  }
  for (const char* key : {"quern_tuning", "devices", "records"})
    for (const ordered_json& value : hostile_values()) {
      ordered_json wrong = good;
      wrong[key] = value;
      CHECK_EQ(check_harmless(wrong.dump()), 0);
    }
}

TEST_CASE("a document cut at any byte is refused whole") {
  const std::string text =
      export_text(parse_import(document(ordered_json::array({record()})).dump()).accepted);
  CHECK_EQ(check_harmless(text), 1);
  for (std::size_t size = 0; size + 1 < text.size(); ++size)
    CHECK_THROWS_AS(parse_import(text.substr(0, size)), InputError);
}

TEST_CASE("a document with any byte changed does no harm") {
  const std::string text = document(ordered_json::array({record()})).dump(1);
  const FamilyRegistry registry = families();
  for (std::size_t at = 0; at < text.size(); ++at)
    for (const char c : {'"', '\\', '{', ',', '\0', '\x80', '9'}) {
      std::string changed = text;
      changed[at] = c;
      try {
        for (const TuningRecord& r : parse_import(changed).accepted) distrust(r, registry);
      } catch (const InputError&) {
      }
    }
}

TEST_CASE("a key given twice is refused at every level") {
  const std::string good = document(ordered_json::array({record()})).dump();
  for (const auto& [before, twice] : std::vector<std::pair<std::string, std::string>>{
           {"\"family\":", "\"family\":\"scale\","},
           {"\"n\":", "\"n\":1,"},
           {"\"threads\":", "\"threads\":128,"},
           {"\"name\":", "\"name\":\"x\","},
           {"\"d\":", "\"d\":{},"},
           {"\"records\":", "\"records\":[],"},
           {"\"devices\":", "\"devices\":{},"},
           {"\"quern_tuning\":", "\"quern_tuning\":2,"}}) {
    CAPTURE(twice);
    std::string text = good;
    text.insert(text.find(before), twice);
    CHECK_EQ(check_harmless(text), 0);
    text = good;  // the other one first
    const std::size_t at = text.find(before);
    const std::size_t brace = text.rfind('{', at);
    text.insert(brace + 1, twice);
    CHECK_EQ(check_harmless(text), 0);
  }
}

TEST_CASE("deep nesting is refused wherever it stands") {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  std::string deep_objects;
  for (int i = 0; i < 50000; ++i) deep_objects += "{\"a\":";
  deep_objects += "1" + std::string(50000, '}');
  const std::string good = document(ordered_json::array({record()})).dump();
  for (const std::string& nested : {deep, deep_objects})
    for (const char* value : {"\"scale\",", "1024", "\"9.0\"", "\"d\",", "5.5"}) {
      std::string text = good;
      const std::string plain(value);
      const bool comma = plain.ends_with(',');
      text.replace(text.find(plain), plain.size(), nested + (comma ? "," : ""));
      CHECK_EQ(check_harmless(text), 0);
    }
  CHECK_EQ(check_harmless(deep), 0);
  CHECK_EQ(check_harmless(deep.substr(0, 100000)), 0);
  CHECK_EQ(check_harmless(deep_objects), 0);
}

TEST_CASE("a million entries, keys or values cost time and memory in proportion, or nothing") {
  const auto start = std::chrono::steady_clock::now();
  const auto repeated = [](std::string first, const std::string& text, int count) {
    for (int i = 0; i < count; ++i) first += (i ? "," : "") + text;
    return first;
  };
  const std::string begin = R"({"quern_tuning":2,"devices":{"d":{}},"records":[)";
  for (const std::string& text :
       {repeated(begin, "{}", 1'000'000) + "]}", repeated(begin, "0", 1'000'000) + "]}",
        repeated(begin, record().dump(), 100'001) + "]}"})
    CHECK_THROWS_WITH_AS(parse_import(text), "the file has more than 100000 tuning records",
                         InputError);
  // One element of a million values, and one of a million keys.
  CHECK_EQ(parse_import(repeated(begin + "[", "0", 1'000'000) + "]]}").refused.size(), 1);
  std::string wide = begin + "{";
  for (int i = 0; i < 1'000'000; ++i) wide += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":1";
  CHECK_EQ(parse_import(wide + "}]}").refused.size(), 1);
  // A million devices, or other things besides the records.
  std::string devices = R"({"quern_tuning":2,"records":[],"devices":{)";
  for (int i = 0; i < 1'000'000; ++i) devices += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":{}";
  CHECK_THROWS_AS(parse_import(devices + "}}"), InputError);
  CHECK_THROWS_AS(parse_import(repeated(R"({"quern_tuning":2,"records":[],"x":[)", "0", 1'000'000) +
                               R"(],"devices":{}})"),
                  InputError);
  // A GPU of its own for every record.
  ordered_json records = ordered_json::array();
  for (int i = 0; i < 300; ++i) {
    ordered_json one = record();
    one.erase("device");
    one["fingerprint"] = {{"name", std::to_string(i)}, {"compute_capability", "9.0"}};
    one["imported"] = false;
    records.push_back(std::move(one));
  }
  const ImportResult many =
      parse_import(ordered_json{{"quern_tuning", 1}, {"records", records}}.dump());
  CHECK_EQ(many.accepted.size(), 256);
  CHECK_EQ(many.refused.size(), 44);
  CHECK_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST_CASE("a file that never ends is given up") {
  CHECK_THROWS_AS(read_document("/dev/zero", 1 << 20), InputError);
  CHECK_THROWS_AS(read_document("/"), InputError);
  CHECK_THROWS_AS(read_document("/nonexistent"), InputError);
  CHECK_EQ(read_document("/dev/null"), "");
}
