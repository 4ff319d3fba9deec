#include <cmath>
#include <limits>

#include "runtime/base/arch.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/base/hash.h"
#include "templates/params.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("every 16-bit float survives the round trip through f32") {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if (!std::isnan(f16_to_f32(half))) CHECK_EQ(f32_to_f16(f16_to_f32(half)), half);
    if (!std::isnan(bf16_to_f32(half))) CHECK_EQ(f32_to_bf16(bf16_to_f32(half)), half);
  }
}

TEST_CASE("conversion to 16 bits rounds to nearest even and keeps specials") {
  CHECK_EQ(f32_to_f16(1.0f + std::ldexp(1.0f, -11)), 0x3c00);      // tie: to even, down
  CHECK_EQ(f32_to_f16(1.0f + 3 * std::ldexp(1.0f, -11)), 0x3c02);  // tie: to even, up
  CHECK_EQ(f32_to_f16(65519.0f), 0x7bff);
  CHECK_EQ(f32_to_f16(65520.0f), 0x7c00);
  CHECK_EQ(f32_to_f16(std::ldexp(1.0f, -25)), 0);                  // tie: to zero
  CHECK_EQ(f32_to_f16(-std::numeric_limits<float>::infinity()), 0xfc00);
  CHECK(std::isnan(f16_to_f32(f32_to_f16(std::nanf("")))));
  CHECK_EQ(f32_to_bf16(1.0f + std::ldexp(1.0f, -8)), 0x3f80);
  CHECK_EQ(f32_to_bf16(1.0f + 3 * std::ldexp(1.0f, -8)), 0x3f82);
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(std::nanf("")))));
}

TEST_CASE("architectures are found by name and by device") {
  CHECK_EQ(parse_arch("sm_90a").cc(), 90);
  CHECK_EQ(parse_arch("80").name(), "sm_80");
  CHECK_THROWS_AS(parse_arch("sm_77"), InputError);
  CHECK_EQ(arch_for_device(8, 7).name(), "sm_86");
  CHECK_EQ(arch_for_device(9, 0).name(), "sm_90a");
  CHECK_EQ(arch_for_device(12, 1).name(), "sm_121");
  CHECK_THROWS_AS(arch_for_device(7, 5), DeviceError);
}

TEST_CASE("a file is replaced whole") {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "a";
  write_file_atomically(path, "one");
  write_file_atomically(path, "two");
  CHECK_EQ(read_file(path), "two");
  CHECK_EQ(MappedFile(path).bytes().size(), 3);
  CHECK_THROWS_AS(read_file(folder.path() / "absent"), InputError);
  CHECK_THROWS_AS(read_file(folder.path()), InputError);
  CHECK_THROWS_AS(write_file_atomically(folder.path() / "no" / "folder", "x"), InputError);
  CHECK_EQ(content_hash("abc"), content_hash(std::string("abc")));
  CHECK_NE(content_hash("abc"), content_hash("abd"));
}

namespace {
struct Sample {
  int tile = 4;
  bool fast = false;
  DType dtype = DType::bf16;
  double eps = 0.5;
  static constexpr auto fields() {
    using S = Sample;
    return std::tuple{std::pair{"tile", &S::tile}, std::pair{"fast", &S::fast},
                      std::pair{"dtype", &S::dtype}, std::pair{"eps", &S::eps}};
  }
};
}  // namespace

TEST_CASE("parameters travel through JSON and refuse what does not fit") {
  const Params params = to_params(Sample{8, true, DType::f16, 1.5});
  CHECK_EQ(to_text(params), "tile=8 fast=true dtype=f16 eps=1.5");
  const auto back = from_params<Sample>(params);
  CHECK_EQ(back.tile, 8);
  CHECK(back.dtype == DType::f16);
  Params wrong = params;
  wrong["tile"] = "8";
  CHECK_THROWS_AS(from_params<Sample>(wrong), InputError);
  wrong["tile"] = 1LL << 40;
  CHECK_THROWS_AS(from_params<Sample>(wrong), InputError);
  wrong = params;
  wrong["more"] = 1;
  CHECK_THROWS_AS(from_params<Sample>(wrong), InputError);
  wrong = params;
  wrong.erase("eps");
  CHECK_THROWS_AS(from_params<Sample>(wrong), InputError);
  CHECK_EQ(config_struct(params).find("f16"), std::string::npos);
}
