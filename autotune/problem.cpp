#include "autotune/problem.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/hash.h"

namespace quern {

std::int64_t bucket(std::int64_t value) {
  constexpr std::int64_t kMax = std::int64_t{1} << 30;
  if (value < 1) return value;
  return static_cast<std::int64_t>(
      std::bit_ceil(static_cast<std::uint64_t>(std::min(value, kMax))));
}

Params bucketed(const Family& family, Params problem) {
  for (const std::string& field : family.dynamic_fields_of(problem))
    if (const auto value = problem.find(field);
        value != problem.end() && value->is_number_integer())
      *value = bucket(value->get<std::int64_t>());
  return problem;
}

CompileRequest compile_request(const Family& family, const Params& problem, const Params& config,
                               const Arch& arch) {
  KernelSource source = family.source(problem, config, arch);
  return {fmt::format("{} {} | {}", family.name(), to_text(problem), to_text(config)),
          std::move(source.source), std::move(source.entry), arch, std::move(source.options)};
}

std::string template_hash(const Family& family, const Params& problem, const Params& config,
                          const Arch& arch, const HeaderMap& templates) {
  // A library's kernels are no template of ours; the driver in the fingerprint dates them.
  if (family.is_library(config)) return content_hash("library");
  const KernelSource source = family.source(problem, config, arch);
  // The source too: of a .qk kernel it is all there is, and an edited stub is an edited template.
  return content_hash(header_closure_hash(source.source, templates) + source.source);
}

std::optional<std::string> refusal(const Family& family, const Params& problem,
                                   const Params& config, const Arch& arch) {
  try {
    if (auto reason = family.unsupported(problem, arch)) return reason;
    return family.reject_reason(problem, config, arch);
  } catch (const InputError& error) {
    return error.what();
  }
}

std::optional<std::string> outside_space(const Family& family, const Params& problem,
                                         const Params& config) {
  std::vector<Tunable> space;
  try {
    space = family.space(problem);
  } catch (const InputError& error) {
    return error.what();
  }
  if (!config.is_object()) return "the config should be an object";
  for (const auto& item : config.items())
    if (std::none_of(space.begin(), space.end(),
                     [&](const Tunable& tunable) { return tunable.name == item.key(); }))
      return fmt::format("'{}' is not a tunable of {}", item.key(), family.name());
  for (const Tunable& tunable : space) {
    const auto value = config.find(tunable.name);
    if (value == config.end()) return fmt::format("the tunable '{}' is missing", tunable.name);
    // Equal as JSON values but of one type: 1.0 is not 1, and true is neither.
    if (std::none_of(tunable.values.begin(), tunable.values.end(), [&](const Params& declared) {
          return declared == *value && declared.is_number_float() == value->is_number_float();
        }))
      return fmt::format("{}={} lies outside the space of {}", tunable.name, value->dump(),
                         family.name());
  }
  return std::nullopt;
}

}  // namespace quern
