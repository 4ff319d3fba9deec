#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "compiler/nvrtc.h"
#include "runtime/base/arch.h"
#include "templates/family.h"

namespace quern {

/// Request-dependent sizes are tuned and looked up at powers of two: 1, 2, 4, ... up to 2^30, the
/// next one at or above `value`. Values below 1 stay as they are.
std::int64_t bucket(std::int64_t value);

/// The problem under which a tuning of `problem` is recorded: every integer among the family's
/// dynamic fields replaced by its bucket.
Params bucketed(const Family& family, Params problem);

/// What NVRTC needs for this config. Throws InputError for malformed parameters.
CompileRequest compile_request(const Family& family, const Params& problem, const Params& config,
                               const Arch& arch);

/// Hash of everything in templates/ that the config's kernel is made from: its source and the
/// closure of what that includes. A record that was made with another is out of date.
std::string template_hash(const Family& family, const Params& problem, const Params& config,
                          const Arch& arch, const HeaderMap& templates);

/// Why `config` cannot run `problem` on `arch`, malformed parameters included, or nothing. Unlike
/// Family::reject_reason this may be asked about parameters from anywhere.
std::optional<std::string> refusal(const Family& family, const Params& problem,
                                   const Params& config, const Arch& arch);

/// Why `config` lies outside the space that the family declares for `problem`, or nothing: unknown
/// or missing tunables and undeclared values. For configs that come from another machine.
std::optional<std::string> outside_space(const Family& family, const Params& problem,
                                         const Params& config);

}  // namespace quern
