#include "autotune/roof.h"

#include "autotune/registry.h"
#include "runtime/device.h"
#include "templates/embedded.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

Params product(int m, int n, int k) {
  return {{"m", m}, {"n", n}, {"k", k}, {"dtype", "bf16"}, {"out_dtype", "bf16"}};
}

}  // namespace

TEST_CASE("the roof is what takes longer: moving the bytes or computing") {
  const FamilyRegistry families = FamilyRegistry::shipped(template_files(std::nullopt));
  const Family& gemm = families.at("gemm");
  const Roofs roofs{4e12, 1e15};
  // 2 bytes each of W, X and Y at 4 TB/s.
  const double bytes = 2.0 * (4096.0 * 4096 + 4096 + 4096);
  CHECK_EQ(roofs.least_us(gemm, product(1, 4096, 4096)), doctest::Approx(bytes / 4e6));
  CHECK_EQ(roofs.least_us(gemm, product(4096, 4096, 4096)),
           doctest::Approx(2.0 * 4096 * 4096 * 4096 / 1e9));
  CHECK_EQ(Roofs{}.least_us(gemm, product(1, 4096, 4096)), 0);
  CHECK_GT(Roofs{4e12, 0}.least_us(gemm, product(4096, 4096, 4096)), 0);
  CHECK_THROWS_AS(roofs.least_us(gemm, Params::object()), InputError);
}

TEST_CASE("tensor-core peaks are those of the data sheets") {
  // Dense bf16 with f32 sums, at the boost clock, in TFLOP/s.
  const auto peak = [](const char* name, int major, int minor, int sms, int mhz) {
    DeviceInfo info;
    info.name = name;
    info.compute_major = major;
    info.compute_minor = minor;
    info.num_sms = sms;
    info.sm_clock_khz = mhz * 1000;
    return info.peak_tensor_flops_per_s() / 1e12;
  };
  CHECK_EQ(peak("NVIDIA A100-SXM4-80GB", 8, 0, 108, 1410), doctest::Approx(312).epsilon(0.01));
  CHECK_EQ(peak("NVIDIA GeForce RTX 3090", 8, 6, 82, 1695), doctest::Approx(71).epsilon(0.01));
  CHECK_EQ(peak("NVIDIA L40S", 8, 9, 142, 2520), doctest::Approx(362).epsilon(0.02));
  CHECK_EQ(peak("NVIDIA GeForce RTX 4090", 8, 9, 128, 2520), doctest::Approx(165).epsilon(0.01));
  CHECK_EQ(peak("NVIDIA H100 80GB HBM3", 9, 0, 132, 1830), doctest::Approx(989).epsilon(0.01));
}
