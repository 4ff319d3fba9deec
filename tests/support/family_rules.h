#pragma once
#include <vector>

#include "templates/family.h"

namespace quern::test {

/// What holds of every family without a device, on every known architecture: candidates are legal,
/// in the declared space and lead to a launchable plan; operands have as many values as elements;
/// source does not depend on dynamic fields.
void check_family_rules(const Family& family, const Params& problem);

/// Compiles for every known architecture the default and, on sm_80 and sm_90a, `more` further
/// candidates; none may spill or use a stack.
void check_family_compiles(const Family& family, const Params& problem, std::size_t more);

/// Puts absurd numbers into every field of problem and config: refused with a sentence or an
/// InputError, never computed with.
void check_family_refuses_nonsense(const Family& family, const Params& problem);

}  // namespace quern::test
