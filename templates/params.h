#pragma once
#include <fmt/format.h>

#include <iterator>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "runtime/base/dtype.h"
#include "runtime/base/error.h"
#include "runtime/base/json.h"

namespace quern {

/// A problem or a config as flat, ordered name/value pairs (integers, reals, booleans, strings):
/// the one form that stubs, cache keys, log lines and JSON share.
using Params = ordered_json;

/// "m=16 n=4096 dtype=bf16": for log lines and tables.
std::string to_text(const Params& params);
/// Canonical key text: equal for equal pairs whatever their order.
std::string to_key(const Params& params);

namespace detail {

template <class T>
void put(Params& out, const char* name, const T& value) {
  if constexpr (std::is_same_v<T, DType>)
    out[name] = std::string(quern::name(value));
  else
    out[name] = value;
}

template <class T>
void take(const Params& in, const char* name, T& value) {
  const auto found = in.find(name);
  if (found == in.end()) throw InputError(fmt::format("'{}' is missing", name));
  const auto wrong = [&](const char* wanted) {
    throw InputError(fmt::format("'{}' should be {}", name, wanted));
  };
  if constexpr (std::is_same_v<T, DType>) {
    if (!found->is_string()) wrong("the name of a dtype");
    const auto dtype = parse_dtype(found->template get<std::string>());
    if (!dtype) wrong("the name of a dtype");
    value = *dtype;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!found->is_boolean()) wrong("true or false");
    value = found->template get<bool>();
  } else if constexpr (std::is_integral_v<T>) {
    if (!found->is_number_integer()) wrong("an integer");
    if (found->is_number_unsigned() && found->template get<std::uint64_t>() > 0x7fffffffffffffffu)
      wrong("an integer in range");
    const auto wide = found->template get<std::int64_t>();
    value = static_cast<T>(wide);
    if (static_cast<std::int64_t>(value) != wide) wrong("an integer in range");
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!found->is_number()) wrong("a number");
    value = found->template get<T>();
  } else {
    if (!found->is_string()) wrong("a string");
    value = found->template get<std::string>();
  }
}

}  // namespace detail

/// From a struct that lists its members once:
///   static constexpr auto fields() { return std::tuple{std::pair{"tile_m", &C::tile_m}, ...}; }
template <class S>
Params to_params(const S& s) {
  Params out = Params::object();
  std::apply([&](auto... field) { (detail::put(out, field.first, s.*field.second), ...); },
             S::fields());
  return out;
}

/// Throws InputError naming the key for a missing key, an unknown key, or a value of a wrong type.
template <class S>
S from_params(const Params& in) {
  if (!in.is_object()) throw InputError("parameters should be an object");
  S s{};
  std::size_t count = 0;
  std::apply(
      [&](auto... field) { ((detail::take(in, field.first, s.*field.second), ++count), ...); },
      S::fields());
  if (in.size() != count)
    for (const auto& item : in.items()) {
      const std::string& key = item.key();
      bool known = false;
      std::apply(
          [&](auto... field) { ((known = known || key == std::string_view(field.first)), ...); },
          S::fields());
      if (!known) throw InputError(fmt::format("'{}' is not a known parameter", key));
    }
  return s;
}

/// A list of numbers as the values of a tunable.
template <class Values>
std::vector<Params> values_of(const Values& values) {
  return {std::begin(values), std::end(values)};
}

/// "struct Config { static constexpr int tile_m = 128; ... };" for a stub. Booleans become bool;
/// strings are left out, because a stub never carries text that came from outside.
std::string config_struct(const Params& params, const std::string& name = "Config");

}  // namespace quern
