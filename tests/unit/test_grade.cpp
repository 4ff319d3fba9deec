#include "cache/grade.h"

#include "tests/support/support.h"

using namespace quern;

TEST_CASE("a fingerprint is graded by what makes a tuning carry over") {
  const ordered_json own = {{"name", "NVIDIA H200"}, {"compute_capability", "9.0"},
                            {"num_sms", 132},        {"memory_clock_khz", 3201000},
                            {"power_limit_w", 700},  {"driver", "580.95.05"}};
  const auto with = [&](const char* key, ordered_json value) {
    ordered_json other = own;
    other[key] = std::move(value);
    return grade(own, other);
  };
  CHECK_EQ(grade(own, own), DeviceMatch::same_device);
  CHECK_EQ(with("driver", "590.1"), DeviceMatch::same_device);
  CHECK_EQ(with("power_limit_w", 500), DeviceMatch::same_device);
  CHECK_EQ(with("name", "NVIDIA H100"), DeviceMatch::same_architecture);
  CHECK_EQ(with("num_sms", 114), DeviceMatch::same_architecture);
  CHECK_EQ(with("num_sms", "132"), DeviceMatch::same_architecture);
  CHECK_EQ(with("compute_capability", "8.0"), DeviceMatch::other);
  CHECK_EQ(with("compute_capability", 9), DeviceMatch::other);
  ordered_json reordered = ordered_json::object();
  for (auto field = own.rbegin(); field != own.rend(); ++field)
    reordered[field.key()] = field.value();
  CHECK_EQ(grade(own, reordered), DeviceMatch::same_device);
  ordered_json nameless = own;
  nameless.erase("compute_capability");
  CHECK_EQ(grade(own, nameless), DeviceMatch::other);
  CHECK_EQ(name(grade(own, own)), "same_device");
}

TEST_CASE("anything but a fingerprint is of another device") {
  const ordered_json own = {{"compute_capability", "9.0"}};
  for (const ordered_json& other :
       {ordered_json(), ordered_json(1), ordered_json("9.0"), ordered_json::array({"9.0"}),
        ordered_json::object(), ordered_json{{"compute_capability", nullptr}}}) {
    CHECK_EQ(grade(own, other), DeviceMatch::other);
    CHECK_EQ(grade(other, own), DeviceMatch::other);
  }
}
