#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "compiler/nvrtc.h"
#include "runtime/base/dtype.h"
#include "runtime/device.h"
#include "runtime/memory.h"
#include "runtime/module.h"
#include "runtime/stream.h"
#include "tests/support/support.h"

namespace quern::test {

/// Whether GPU tests can run; if not, driver_problem() says why:
///   QUERN_SKIP_IF(!gpu_available(), driver_problem());
bool gpu_available();

/// What nearly every GPU test needs. The context is that of GPU 0, shared by all tests of the
/// process; the stream is the test's own.
struct GpuFixture {
  GpuFixture();
  const Context& context;
  Stream stream;
  /// The context's architecture, with the numbers of the device.
  Arch arch() const { return context.device().arch(); }
};

/// The image of a kernel built with NVRTC for `arch`.
KernelImage compile(const std::string& source, const std::string& entry, const Arch& arch,
                    const HeaderMap& headers = {}, const std::vector<std::string>& options = {});

/// Copies to a new device buffer and waits.
Buffer upload_bytes(const void* from, std::size_t bytes, const Stream& stream);
template <class T>
Buffer upload(const std::vector<T>& values, const Stream& stream) {
  return upload_bytes(values.data(), values.size() * sizeof(T), stream);
}

/// Copies from the device and waits, so it also reports what went wrong before it.
template <class T>
std::vector<T> download(CUdeviceptr from, std::size_t count, const Stream& stream) {
  std::vector<T> values(count);
  copy_to_host(values.data(), from, count * sizeof(T), stream);
  stream.synchronize();
  return values;
}

/// Device memory for a kernel's output: every byte starts as 0xff, which is NaN in f32, f16, bf16,
/// e4m3 and e5m2, and what lies right before and after is watched for stray writes.
class GuardedBuffer {
 public:
  GuardedBuffer(std::size_t bytes, const Stream& stream);
  CUdeviceptr address() const { return buffer_.address() + kGuardBytes; }  // 256-byte aligned
  std::size_t size_bytes() const { return bytes_; }
  /// Waits for the stream. True if nobody wrote outside.
  bool intact(const Stream& stream) const;
  template <class T>
  std::vector<T> download(const Stream& stream) const {
    return test::download<T>(address(), bytes_ / sizeof(T), stream);
  }

 private:
  static constexpr std::size_t kGuardBytes = 4096;
  std::size_t bytes_;
  Buffer buffer_;
};

/// Uniform in [-1, 1), the same on every machine for the same seed.
std::vector<float> random_values(std::size_t count, std::uint32_t seed);

/// Host values to and from f32, f16 and bf16 elements.
std::vector<std::byte> encode(const std::vector<float>& values, DType dtype);
std::vector<float> decode(const std::vector<std::byte>& bytes, DType dtype);
/// `values` as `dtype` can hold them: what an oracle should start from.
std::vector<float> rounded(const std::vector<float>& values, DType dtype);

/// nullopt if |actual - expected| <= abs + rel |expected| everywhere; else a line with the worst
/// element, both values and how many are off. NaN is off unless both are NaN.
std::optional<std::string> mismatch(const std::vector<float>& actual,
                                    const std::vector<float>& expected, double abs, double rel);

}  // namespace quern::test

/// Checks two vectors with a tolerance and prints the worst element if they differ.
#define QUERN_CHECK_CLOSE(actual, expected, abs, rel)                                        \
  do {                                                                                       \
    const auto quern_mismatch = ::quern::test::mismatch((actual), (expected), (abs), (rel)); \
    CHECK_MESSAGE(!quern_mismatch, quern_mismatch.value_or(""));                             \
  } while (false)
