#include "autotune/device_description.h"

#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const std::string kFile = std::string(QUERN_SOURCE_DIR) + "/tests/data/h200.json";

/// The H200's description with one member replaced.
std::string with(const std::string& key, const ordered_json& value) {
  ordered_json document = ordered_json::parse(read_file(kFile));
  (document["fingerprint"].contains(key) ? document["fingerprint"] : document)[key] = value;
  return document.dump();
}
std::string without(const std::string& key) {
  ordered_json document = ordered_json::parse(read_file(kFile));
  (document["fingerprint"].contains(key) ? document["fingerprint"] : document).erase(key);
  return document.dump();
}

}  // namespace

TEST_CASE("a description gives the architecture with the device's own numbers") {
  const DeviceDescription device = parse_device_description(read_file(kFile));
  CHECK_EQ(device.arch.name(), "sm_90a");
  CHECK_EQ(device.arch.num_sms, 132);
  CHECK_EQ(device.arch.l2_bytes, 62914560);
  CHECK_EQ(device.arch.smem_per_block_bytes, 232448);
  CHECK_EQ(device.arch.max_threads_per_sm, 2048);
  CHECK_EQ(device.fingerprint.at("name"), "NVIDIA H200");
  CHECK_EQ(to_json(device), ordered_json::parse(read_file(kFile)));
}

TEST_CASE("what a device says of itself can be read back") {
  DeviceInfo info;
  info.name = "NVIDIA L40S";
  info.compute_major = 8;
  info.compute_minor = 9;
  info.num_sms = 142;
  info.l2_bytes = 96 << 20;
  info.smem_per_block_bytes = 99 << 10;
  info.smem_per_sm_bytes = 100 << 10;
  info.max_threads_per_sm = 1536;
  info.registers_per_sm = 65536;
  info.driver_version = 13000;
  const DeviceDescription read = parse_device_description(to_json(describe(info)).dump());
  CHECK_EQ(read.fingerprint, info.fingerprint());
  CHECK_EQ(to_json(read), to_json(describe(info)));
  CHECK_EQ(read.arch.num_sms, 142);
}

TEST_CASE("a description is believed in nothing unchecked") {
  for (const std::string text : {"", "{", "[]", "null", "{}", "{\"quern_tuning\": 1}", "7"})
    CHECK_THROWS_AS(parse_device_description(text), InputError);
  for (const std::string key : {"fingerprint", "arch", "smem_per_block_bytes", "registers_per_sm",
                                "name", "compute_capability", "num_sms", "driver"}) {
    CAPTURE(key);
    CHECK_THROWS_AS(parse_device_description(without(key)), InputError);
    for (const ordered_json& value :
         {ordered_json(), ordered_json(-1), ordered_json(1e300), ordered_json(1.5),
          ordered_json(""), ordered_json(true), ordered_json::array(), ordered_json::object(),
          ordered_json(0xffffffffffffffffu), ordered_json(std::string(1000, 'x')),
          ordered_json("a\nb"), ordered_json("\xff")}) {
      ordered_json document = ordered_json::parse(read_file(kFile));
      (document["fingerprint"].contains(key) ? document["fingerprint"] : document)[key] = value;
      const std::string text = document.dump(-1, ' ', false, ordered_json::error_handler_t::ignore);
      if (value.is_string() && text.find("\"a") == text.npos && value != "") continue;
      CAPTURE(text);
      CHECK_THROWS_AS(parse_device_description(text), InputError);
    }
  }
  CHECK_THROWS_WITH_AS(parse_device_description(with("quern_device", 2)),
                       "the device description is refused: its version is not 1", InputError);
  CHECK_THROWS_WITH_AS(
      parse_device_description(with("arch", "sm_80")),
      "the device description is refused: 'arch' should be sm_90a, for its compute capability",
      InputError);
  CHECK_THROWS_AS(parse_device_description(with("compute_capability", "7.5")), InputError);
  CHECK_THROWS_AS(parse_device_description(with("extra", 1)), InputError);
  CHECK_THROWS_AS(parse_device_description(with("num_sms", 0)), InputError);
  CHECK_THROWS_AS(parse_device_description(with("smem_per_sm_bytes", 100000)), InputError);
  CHECK_THROWS_AS(parse_device_description(R"({"quern_device": 1, "quern_device": 1})"),
                  InputError);
}
