#include "runtime/base/error.h"
#include "runtime/cublaslt.h"
#include "runtime/device.h"
#include "runtime/library.h"
#include "runtime/nvml.h"
#include "tests/support/support.h"

using namespace quern;

TEST_CASE("without a driver every way in says so in one sentence") {
  const std::string problem = driver_problem();
  if (problem.empty()) {
    CHECK_NOTHROW(devices());
    return;
  }
  CAPTURE(problem);
  CHECK((problem.find("driver") != std::string::npos));
  CHECK_EQ(problem.find('\n'), std::string::npos);
  CHECK_EQ(driver_problem(), problem);
  CHECK_THROWS_WITH_AS(driver(), problem.c_str(), DeviceError);
  CHECK_THROWS_AS(devices(), DeviceError);
  CHECK_THROWS_AS(Context(), DeviceError);
  CHECK_THROWS_AS(Stream(), DeviceError);
  CHECK_THROWS_AS(Buffer(1), DeviceError);
  CHECK_NOTHROW(Buffer(0));
  try {
    driver();
  } catch (const DeviceError& error) {
    CHECK_EQ(error.exit_code(), kExitNoDevice);
  }
}

TEST_CASE("a status becomes an exception that names the caller") {
  CHECK_NOTHROW(check(CUDA_SUCCESS));
  CHECK_THROWS_AS(check(CUDA_ERROR_OUT_OF_MEMORY), OutOfMemoryError);
  try {
    check(CUDA_ERROR_ILLEGAL_ADDRESS);
    FAIL("did not throw");
  } catch (const CudaError& error) {
    CHECK_EQ(error.code(), CUDA_ERROR_ILLEGAL_ADDRESS);
    CHECK_NE(std::string(error.what()).find("test_runtime.cpp:"), std::string::npos);
  }
}

TEST_CASE("a library that is not there is an ordinary answer") {
  const Library absent({"libquern-does-not-exist.so.1"}, {"/nonexistent", ""});
  CHECK_FALSE(absent);
  CHECK_EQ(absent.symbol("puts"), nullptr);
  const Library present({"libquern-does-not-exist.so.1", "libm.so.6"}, {});
  REQUIRE(present);
  double (*cosine)(double) = nullptr;
  CHECK(present.load(cosine, "cos"));
  CHECK_EQ(cosine(0.0), 1.0);
  CHECK_FALSE(present.load(cosine, "quern_no_such_symbol"));
}

TEST_CASE("a device's numbers reach its architecture, its roof and its fingerprint") {
  DeviceInfo info;
  info.name = "NVIDIA H200";
  info.compute_major = 9;
  info.num_sms = 120;
  info.l2_bytes = 50 << 20;
  info.memory_clock_khz = 3201000;
  info.memory_bus_bits = 6144;
  info.smem_per_block_bytes = 232448;
  info.driver_version = 13000;
  CHECK_EQ(info.arch().name(), "sm_90a");
  CHECK_EQ(info.arch().num_sms, 120);
  CHECK_EQ(info.arch().smem_per_block_bytes, 232448);
  CHECK_EQ(info.peak_bytes_per_s(), doctest::Approx(4.917e12).epsilon(1e-3));
  info.sm_clock_khz = 1980000;
  CHECK_EQ(info.peak_tensor_flops_per_s(), doctest::Approx(4096 * 120 * 1.98e9));
  const ordered_json fingerprint = info.fingerprint();
  CHECK_EQ(fingerprint.at("compute_capability"), "9.0");
  CHECK_EQ(fingerprint.at("driver"), "CUDA 13.0");
  info.power_limit_w = 600;
  info.driver_name = "580.95.05";
  CHECK_EQ(info.fingerprint().at("driver"), "580.95.05");
  CHECK_NE(info.fingerprint(), fingerprint);
  info.ordinal = 3;
  info.uuid = "GPU-1";  // two equal cards share their tuning results
  CHECK_EQ(info.fingerprint().size(), fingerprint.size());
}
