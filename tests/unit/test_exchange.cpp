#include "cache/exchange.h"

#include <algorithm>
#include <sstream>

#include "cache/base64.h"
#include "cache/merge.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "tests/support/sample_record.h"
#include "tests/support/support.h"

using namespace quern;
using test::kFingerprint;
namespace fs = std::filesystem;

namespace {

TuningRecord sample(int m = 16, double median_us = 38.25) {
  TuningRecord r = test::sample(m, median_us);
  r.nvrtc = "13.0.88";
  return r;
}

/// A document of the first version.
std::string import_text(const ordered_json& records) {
  return ordered_json{{"quern_tuning", 1}, {"records", records}}.dump();
}

}  // namespace

TEST_CASE("base64 gives every byte back, and takes nothing but what it wrote") {
  std::string bytes;
  for (int i = 0; i < 300; ++i) {
    CHECK_EQ(cache::decode_base64(cache::encode_base64(bytes)), bytes);
    bytes += static_cast<char>(i * 7);
  }
  CHECK_EQ(cache::encode_base64("foobar"), "Zm9vYmFy");  // RFC 4648, section 10
  CHECK_EQ(cache::encode_base64("fo"), "Zm8=");
  for (const char* text :
       {"Z", "Zg", "Zg=", "Zh==", "Zg==Zg==", "=", "====", "Zm9v\n", "Zm 9", "Z-_v"})
    CHECK_FALSE(cache::decode_base64(text));
}

TEST_CASE("an export reads well, names each device once, and is the same whatever the order") {
  TuningRecord other = sample(1, 1.0 / 3);
  other.fingerprint["name"] = "NVIDIA H100";
  other.energy_mj = 1.23456;
  const std::string text = export_text({sample(2), other, sample(1)});
  CHECK_EQ(text, export_text({sample(1), sample(2), other}));
  const auto parsed = ordered_json::parse(text);
  CHECK_EQ(parsed["quern_tuning"], 2);
  CHECK_EQ(parsed["devices"].size(), 2);
  const std::string name = fingerprint_hash(kFingerprint).substr(0, 8);
  CHECK_EQ(parsed["devices"][name], kFingerprint);
  REQUIRE_EQ(parsed["records"].size(), 3);
  CHECK_NE(text.find("\"median_us\":0.333,"), std::string::npos);
  CHECK_NE(text.find("\"energy_mj\":1.235"), std::string::npos);
  CHECK_NE(text.find(R"(  {"device":")" + name +
                     R"(","family":"gemm","problem":{"m":1,"n":4096,)"
                     R"("dtype":"bf16","eps":1e-05,"bias":false},
   "config":{"tile_m":16,"stages":4},"template_hash":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","nvrtc":"13.0.88",
   "median_us":38.25,"spread_us":0.4,"num_samples":31,"default_us":41.0,"error":0.25,"measured_at":"2026-01-31T12:00:00Z"},
)"),
           std::string::npos);
  CHECK_EQ(export_text({}), "{\n \"quern_tuning\": 2,\n \"devices\": {},\n \"records\": []\n}\n");

  // Another timing of one winner changes one line.
  const std::string before = export_text({sample(1), sample(2)});
  const std::string after = export_text({sample(1), sample(2, 37)});
  std::size_t changed = 0;
  std::istringstream a(before), b(after);
  for (std::string x, y; std::getline(a, x) && std::getline(b, y);) changed += x != y;
  CHECK_EQ(changed, 1);
}

TEST_CASE("500 records take less than 500 kB") {
  std::vector<TuningRecord> records;
  for (int m = 0; m < 500; ++m) records.push_back(sample(m, 1000.0 / (m + 3)));
  CHECK_LT(export_text(records).size(), 500'000);
}

TEST_CASE("an export imports again, marked") {
  TuningRecord other = sample(2);
  other.fingerprint["name"] = "NVIDIA H100";
  const ImportResult result = parse_import(export_text({sample(1), other}));
  CHECK(result.refused.empty());
  REQUIRE_EQ(result.accepted.size(), 2);
  for (TuningRecord back : result.accepted) {
    CHECK(back.imported);
    back.imported = false;
    const TuningRecord& wanted = back.problem == other.problem ? other : sample(1);
    CHECK_EQ(to_json(back), to_json(wanted));
  }
}

TEST_CASE("documents of the first version stay importable") {
  const ImportResult result = parse_import(import_text({to_json(sample(1)), to_json(sample(2))}));
  CHECK(result.refused.empty());
  REQUIRE_EQ(result.accepted.size(), 2);
  CHECK(result.accepted[0].imported);
  CHECK_EQ(result.accepted[1].problem, sample(2).problem);
}

TEST_CASE("images travel as bytes, and come out only where they are asked for") {
  const NamedImage image{
      content_hash("k"),
      {"// \"source\"\n", std::string("\x7f\0ELF\xff", 6), {{"registers", 32}}, "log\n"}};
  const std::string text = export_text({sample()}, {image});
  ImportResult result = parse_import(text);
  CHECK_EQ(result.accepted.size(), 1);
  CHECK(result.images.empty());
  CHECK_EQ(result.num_images, 1);
  result = parse_import(text, ImageImport::take);
  REQUIRE_EQ(result.images.size(), 1);
  CHECK_EQ(result.images[0].key, image.key);
  CHECK_EQ(result.images[0].image.source, image.image.source);
  CHECK_EQ(result.images[0].image.image, image.image.image);
  CHECK_EQ(result.images[0].image.report, image.image.report);

  ordered_json hostile = ordered_json::parse(text);
  const ordered_json good = hostile["images"][0];
  hostile["images"] = ordered_json::array();
  for (const auto& [key, value] : good.items()) {
    if (key == "source" || key == "log") continue;  // any text
    ordered_json wrong = good;
    wrong[key] = "../../x";
    hostile["images"].push_back(wrong);
  }
  for (const auto& [key, value] : good.items()) {
    ordered_json wrong = good;
    wrong[key] = 7;
    hostile["images"].push_back(wrong);
    wrong.erase(key);
    hostile["images"].push_back(wrong);
  }
  result = parse_import(hostile.dump(), ImageImport::take);
  CHECK(result.images.empty());
  CHECK_EQ(result.refused.size(), hostile["images"].size());
}

TEST_CASE(
    "of two records of one problem the newer toolchain, the tighter band, the faster counts") {
  const TuningRecord base = sample();
  TuningRecord newer = base, tighter = base, faster = base;
  newer.nvrtc = "13.0.100";
  newer.spread_us = 2;
  tighter.spread_us = 0.1;
  tighter.median_us = 40;
  faster.median_us = 30;
  faster.spread_us = base.spread_us / base.median_us * 30;
  TuningRecord unknown = tighter;
  unknown.nvrtc = "";
  for (const auto& [better, worse] : {std::pair(newer, base), std::pair(newer, tighter),
                                      std::pair(tighter, base), std::pair(base, unknown)}) {
    CHECK(is_better(better, worse));
    CHECK_FALSE(is_better(worse, better));
  }
  faster.spread_us = 0;
  TuningRecord slower = faster;
  slower.median_us = 31;
  CHECK(is_better(faster, slower));
  CHECK_FALSE(is_better(base, base));
  for (const auto& [late, early] :
       {std::pair("13.0.88", "12.9.99"), std::pair("13.10", "13.9"), std::pair("13.0.88", "13.0"),
        std::pair("9", ""), std::pair("99999999999999999999999", "13")}) {
    TuningRecord a = base, b = base;
    a.nvrtc = late;
    b.nvrtc = early;
    CHECK(is_better(a, b));
    CHECK_FALSE(is_better(b, a));
  }
  const auto merged = merge_records({base, newer, tighter, sample(2)});
  REQUIRE_EQ(merged.size(), 2);
  CHECK_EQ(export_text(merged), export_text({sample(2), tighter, newer, base}));
  CHECK(std::any_of(merged.begin(), merged.end(),
                    [](const TuningRecord& r) { return r.nvrtc == "13.0.100"; }));
}

TEST_CASE("an import keeps what is good and says why the rest is not") {
  ordered_json bad_time = to_json(sample());
  bad_time["median_us"] = -3;
  const ImportResult result =
      parse_import(import_text({to_json(sample(1)), bad_time, 7, nullptr, to_json(sample(2))}));
  CHECK_EQ(result.accepted.size(), 2);
  REQUIRE_EQ(result.refused.size(), 3);
  CHECK_EQ(result.refused[0],
           "record 2 is refused: 'median_us' of a tuning record should be a number from 0 to "
           "1e+12");
}

TEST_CASE("a key given twice is refused, since readers differ in which value counts") {
  const std::string good = to_json(sample()).dump();
  const auto first_version = [](const std::string& record) {
    return "{\"quern_tuning\":1,\"records\":[" + record + "]}";
  };
  CHECK_EQ(parse_import(first_version(good)).accepted.size(), 1);
  const std::string twice = "{\"family\":\"gemm\"," + good.substr(1);
  CHECK_EQ(parse_import(first_version(twice)).refused.size(), 1);
  std::string inside = good;
  inside.replace(inside.find("\"tile_m\""), 0, "\"tile_m\":1,");
  CHECK_EQ(parse_import(first_version(inside)).refused.size(), 1);
  CHECK_THROWS_AS(parse_import("{\"records\":[]," + first_version(good).substr(1)), InputError);
}

TEST_CASE("hostile documents are refused without a crash") {
  for (const std::string& text :
       {std::string(), std::string("x"), std::string("[]"), std::string("{}"), std::string("1e999"),
        std::string("{\"quern_tuning\":3,\"records\":[]}"),
        std::string("{\"quern_tuning\":2,\"records\":[]}"), std::string("{\"quern_tuning\":1}"),
        std::string("{\"quern_tuning\":1,\"records\":{}}"), std::string(1 << 20, '['),
        std::string(1 << 20, '{'), std::string("\"\xff\""), std::string(3, '\0')})
    CHECK_THROWS_AS(parse_import(text), InputError);

  const std::string deep(100000, '['), closed(100000, ']');
  const ImportResult nested = parse_import("{\"quern_tuning\":1,\"records\":[" + deep + closed +
                                           ",{\"family\":" + deep + closed + "}]}");
  CHECK(nested.accepted.empty());
  CHECK_EQ(nested.refused.size(), 2);

  const std::string text = import_text({to_json(sample(1)), to_json(sample(2))});
  for (std::size_t size = 0; size < text.size(); ++size)
    CHECK_THROWS_AS(parse_import(text.substr(0, size)), InputError);
}

TEST_CASE("very many entries and very many keys take time in proportion") {
  std::string text = "{\"quern_tuning\":1,\"records\":[";
  const std::string record = to_json(sample()).dump();
  for (int i = 0; i < 100000; ++i) text += (i ? "," : "") + (i % 10 ? "{}" : record);
  text += "]}";
  const ImportResult many = parse_import(text);
  CHECK_EQ(many.accepted.size(), 10000);
  CHECK_EQ(many.refused.size(), 90000);

  std::string wide = "{\"quern_tuning\":1,\"records\":[{";
  for (int i = 0; i < 100000; ++i) wide += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":1";
  CHECK_EQ(parse_import(wide + "}]}").refused.size(), 1);
}
