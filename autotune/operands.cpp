#include "autotune/operands.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>

#include "runtime/base/fp8.h"
#include "runtime/base/half.h"

namespace quern {
namespace {

constexpr std::size_t kMaxPeriod = 1048573;  // elements; the largest prime below 2^20

template <class T>
void store(std::byte* data, std::size_t index, T value) {
  std::memcpy(data + index * sizeof(T), &value, sizeof(T));
}

template <class T>
T fetch(const std::byte* data, std::size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

void store_float(DType dtype, std::byte* data, std::size_t i, float value) {
  switch (dtype) {
    case DType::f32:
      return store(data, i, value);
    case DType::f64:
      return store(data, i, static_cast<double>(value));
    case DType::f16:
      return store(data, i, f32_to_f16(value));
    case DType::bf16:
      return store(data, i, f32_to_bf16(value));
    case DType::e5m2:
      return store(data, i, f32_to_e5m2(value));
    default:
      return store(data, i, f32_to_e4m3(value));
  }
}

void store_integer(DType dtype, std::byte* data, std::size_t i, std::int32_t value) {
  switch (dtype) {
    case DType::i64:
      return store(data, i, static_cast<std::int64_t>(value));
    case DType::i32:
      return store(data, i, value);
    case DType::i16:
      return store(data, i, static_cast<std::int16_t>(value));
    default:
      return store(data, i, static_cast<std::int8_t>(value));
  }
}

std::string coordinate(const OperandSpec& spec, std::size_t index) {
  std::string text;
  for (auto axis = spec.shape.rbegin(); axis != spec.shape.rend(); ++axis) {
    const auto extent = static_cast<std::size_t>(*axis);
    text = fmt::format("{}{}{}", index % extent, text.empty() ? "" : ", ", text);
    index /= extent;
  }
  return fmt::format("{}[{}]", spec.name, text);
}

}  // namespace

std::vector<std::byte> trial_contents(const OperandSpec& spec, std::uint64_t seed) {
  const std::size_t count = spec.num_elements();
  std::mt19937_64 random(seed);
  if (!spec.values.empty()) {
    if (spec.values.size() != count || is_floating_point(spec.dtype) || spec.dtype == DType::i4)
      throw InputError(fmt::format("the values of operand '{}' do not fit its shape", spec.name));
    std::vector<std::byte> bytes(spec.size_bytes());
    for (std::size_t i = 0; i < count; ++i)
      store_integer(spec.dtype, bytes.data(), i, spec.values[i]);
    return bytes;
  }
  const std::size_t period = std::min(count, kMaxPeriod);
  std::vector<std::byte> bytes(bytes_for(spec.dtype, period));
  if (is_floating_point(spec.dtype)) {
    std::normal_distribution<float> normal(0.0f, static_cast<float>(spec.stddev));
    const auto [least, most] = spec.between.value_or(std::pair{0.0, 1.0});
    std::uniform_real_distribution<float> uniform(static_cast<float>(least),
                                                  static_cast<float>(most));
    for (std::size_t i = 0; i < period; ++i) {
      const float value = spec.between ? uniform(random) : normal(random);
      store_float(spec.dtype, bytes.data(), i, spec.positive ? std::fabs(value) : value);
    }
  } else if (spec.range && spec.dtype != DType::i4 && spec.dtype != DType::boolean) {
    std::uniform_int_distribution<std::int32_t> uniform(spec.range->first, spec.range->second);
    for (std::size_t i = 0; i < period; ++i)
      store_integer(spec.dtype, bytes.data(), i, uniform(random));
  } else {
    const auto mask = static_cast<std::uint8_t>(spec.dtype == DType::boolean ? 1 : 255);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() & mask);
  }
  return bytes;
}

std::vector<std::byte> repeat_to(const std::vector<std::byte>& contents, std::size_t bytes) {
  std::vector<std::byte> out(bytes);
  for (std::size_t done = 0; done < bytes; done += contents.size())
    std::memcpy(out.data() + done, contents.data(), std::min(contents.size(), bytes - done));
  return out;
}

double element(DType dtype, const std::byte* data, std::size_t index) {
  switch (dtype) {
    case DType::f32:
      return fetch<float>(data, index);
    case DType::f64:
      return fetch<double>(data, index);
    case DType::f16:
      return f16_to_f32(fetch<std::uint16_t>(data, index));
    case DType::bf16:
      return bf16_to_f32(fetch<std::uint16_t>(data, index));
    case DType::e4m3:
      return e4m3_to_f32(fetch<std::uint8_t>(data, index));
    case DType::e5m2:
      return e5m2_to_f32(fetch<std::uint8_t>(data, index));
    case DType::i64:
      return static_cast<double>(fetch<std::int64_t>(data, index));
    case DType::i32:
      return fetch<std::int32_t>(data, index);
    case DType::i16:
      return fetch<std::int16_t>(data, index);
    case DType::i8:
      return fetch<std::int8_t>(data, index);
    case DType::u8:
    case DType::boolean:
      return fetch<std::uint8_t>(data, index);
    case DType::i4: {
      const unsigned nibble = (fetch<std::uint8_t>(data, index / 2) >> (4 * (index % 2))) & 15u;
      return nibble < 8 ? nibble : static_cast<double>(nibble) - 16;
    }
  }
  return 0;
}

Comparison compare_output(const OperandSpec& spec, const std::vector<std::byte>& out,
                          const std::vector<std::byte>& reference, const Tolerance& tolerance,
                          std::size_t first) {
  const bool real = is_floating_point(spec.dtype);
  const Tolerance bound = real || tolerance.share > 0 ? tolerance : Tolerance{};
  Comparison result;
  std::size_t worst = 0, num_missed = 0;  // missed: integers that differ by more than rel |ref|
  const std::size_t count =
      std::min(spec.num_elements() - first, 8 * out.size() / size_bits(spec.dtype));
  for (std::size_t i = 0; i < count; ++i) {
    const double got = element(spec.dtype, out.data(), i);
    const double wanted = element(spec.dtype, reference.data(), i);
    const double off = std::fabs(got - wanted);
    double error = 0;
    if (std::isnan(off))
      error = std::numeric_limits<double>::infinity();
    else if (off > 0)
      error = off / (bound.abs + bound.rel * std::fabs(wanted));
    if (!real && off > bound.rel * std::fabs(wanted)) ++num_missed;
    if (error > result.error) {
      result.error = error;
      worst = i;
    }
  }
  if (num_missed > 0 && bound.share > 0) {
    const double allowed = std::max(1.0, bound.share * static_cast<double>(count));
    const double share = static_cast<double>(num_missed) / allowed;
    if (share > 1 && result.error <= 1) {
      result.error = share;
      result.complaint = fmt::format("{} of {} elements of {} differ, {} for one", num_missed,
                                     count, spec.name, coordinate(spec, first + worst));
      return result;
    }
    result.error = std::max(result.error, share);
  }
  if (result.error > 1)
    result.complaint = fmt::format("{} is {:g} instead of {:g}", coordinate(spec, first + worst),
                                   element(spec.dtype, out.data(), worst),
                                   element(spec.dtype, reference.data(), worst));
  return result;
}

ElementRange around_worst(std::size_t count, std::size_t most,
                          const std::function<double(const ElementRange&)>& worst_error) {
  ElementRange range{0, count};
  while (range.count > most) {
    const std::size_t half = range.count / 2;
    const ElementRange lower{range.first, half}, upper{range.first + half, range.count - half};
    range = worst_error(lower) >= worst_error(upper) ? lower : upper;
  }
  return range;
}

std::optional<Params> odd_problem(const Family& family, const Params& problem, const Arch& arch) {
  const auto with_odd = [&](std::span<const std::string> fields) -> std::optional<Params> {
    Params odd = problem;
    for (const std::string& field : fields)
      if (const auto value = odd.find(field); value != odd.end() && value->is_number_integer())
        if (const auto n = value->get<std::int64_t>(); n > 1 && n % 2 == 0) *value = n - 1;
    if (odd == problem) return std::nullopt;
    try {
      if (family.unsupported(odd, arch)) return std::nullopt;
      family.operands(odd);
    } catch (const InputError&) {
      return std::nullopt;
    }
    return odd;
  };
  const std::vector<std::string> fields = family.dynamic_fields_of(problem);
  if (auto odd = with_odd(fields)) return odd;
  for (const std::string& field : fields)  // they may depend on each other
    if (auto odd = with_odd({&field, 1})) return odd;
  return std::nullopt;
}

}  // namespace quern
