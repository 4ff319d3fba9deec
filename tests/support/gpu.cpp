#include "tests/support/gpu.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "runtime/base/half.h"

namespace quern::test {
namespace {

constexpr unsigned char kGuard = 0xa5, kNan = 0xff;

/// Never destroyed: the driver may be gone before the process's statics are.
const Context& shared_context() {
  static const Context& context = *new Context(0);
  context.make_current();
  return context;
}

const Nvrtc& shared_nvrtc() {
  static const Nvrtc nvrtc;
  return nvrtc;
}

std::invalid_argument unsupported(DType dtype) {
  return std::invalid_argument("no host conversion for " + std::string(name(dtype)));
}

}  // namespace

bool gpu_available() { return driver_problem().empty(); }

GpuFixture::GpuFixture() : context(shared_context()) {}

KernelImage compile(const std::string& source, const std::string& entry, const Arch& arch,
                    const HeaderMap& headers, const std::vector<std::string>& options) {
  return shared_nvrtc().compile(
      {.name = entry, .source = source, .entry = entry, .arch = arch, .options = options}, headers);
}

Buffer upload_bytes(const void* from, std::size_t bytes, const Stream& stream) {
  Buffer buffer(bytes);
  copy_to_device(buffer.address(), from, bytes, stream);
  stream.synchronize();
  return buffer;
}

GuardedBuffer::GuardedBuffer(std::size_t bytes, const Stream& stream)
    : bytes_(bytes), buffer_(bytes + 2 * kGuardBytes) {
  fill_bytes(buffer_.address(), kGuard, buffer_.size_bytes(), stream);
  fill_bytes(address(), kNan, bytes_, stream);
  stream.synchronize();
}

bool GuardedBuffer::intact(const Stream& stream) const {
  const auto is_guard = [](unsigned char byte) { return byte == kGuard; };
  const auto before = test::download<unsigned char>(buffer_.address(), kGuardBytes, stream);
  const auto after = test::download<unsigned char>(address() + bytes_, kGuardBytes, stream);
  return std::all_of(before.begin(), before.end(), is_guard) &&
         std::all_of(after.begin(), after.end(), is_guard);
}

std::vector<float> random_values(std::size_t count, std::uint32_t seed) {
  std::vector<float> values(count);
  std::uint64_t state = seed + 0x9e3779b97f4a7c15u;
  for (float& value : values) {  // xorshift64*, Vigna, "An experimental exploration ..."
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    const auto bits = static_cast<std::uint32_t>((state * 0x2545f4914f6cdd1du) >> 40);
    value = static_cast<float>(bits) * 0x1p-23f - 1.0f;
  }
  return values;
}

std::vector<std::byte> encode(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(bytes_for(dtype, values.size()));
  if (dtype == DType::f32) {
    if (!bytes.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  if (dtype != DType::f16 && dtype != DType::bf16) throw unsupported(dtype);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half = dtype == DType::f16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    std::memcpy(&bytes[2 * i], &half, 2);
  }
  return bytes;
}

std::vector<float> decode(const std::vector<std::byte>& bytes, DType dtype) {
  std::vector<float> values(bytes.size() * 8 / size_bits(dtype));
  if (dtype == DType::f32) {
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
  if (dtype != DType::f16 && dtype != DType::bf16) throw unsupported(dtype);
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint16_t half = 0;
    std::memcpy(&half, &bytes[2 * i], 2);
    values[i] = dtype == DType::f16 ? f16_to_f32(half) : bf16_to_f32(half);
  }
  return values;
}

std::vector<float> rounded(const std::vector<float>& values, DType dtype) {
  return decode(encode(values, dtype), dtype);
}

std::optional<std::string> mismatch(const std::vector<float>& actual,
                                    const std::vector<float>& expected, double abs, double rel) {
  if (actual.size() != expected.size())
    return fmt::format("{} elements instead of {}", actual.size(), expected.size());
  std::size_t num_off = 0, worst = 0;
  double worst_score = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double got = actual[i], wanted = expected[i];
    if (got == wanted || (std::isnan(got) && std::isnan(wanted))) continue;
    double score = std::fabs(got - wanted) / (abs + rel * std::fabs(wanted));
    if (std::isnan(score)) score = HUGE_VAL;
    if (score <= 1) continue;
    ++num_off;
    if (score > worst_score) {
      worst_score = score;
      worst = i;
    }
  }
  if (num_off == 0) return std::nullopt;
  return fmt::format("{} of {} elements are off; the worst is [{}]: {} instead of {}", num_off,
                     actual.size(), worst, actual[worst], expected[worst]);
}

}  // namespace quern::test
