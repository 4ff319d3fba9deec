#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "templates/family.h"
#include "tests/support/gpu.h"

namespace quern::test {

/// Fills the out and inout operands from the formula, in naive loops.
using Oracle = std::function<void(const Params& problem, std::span<HostTensor> operands)>;

struct FamilyCheck {
  /// Candidates to try, half of them the best ranked and the default among them, the others spread
  /// over the whole space.
  std::size_t max_candidates = 40;
  /// Further configs to try; one that is rejected fails the check.
  std::vector<Params> configs;
  std::uint32_t seed = 1;
};

/// Checks kernels of `family` on one problem against `oracle`: its candidates and, where there is
/// one, its reference config. Each runs on random operands; outputs start as NaN between guard
/// bytes and are compared within family.tolerance(); then it runs twice more, back to back, and
/// must give the same bits. Images are compiled in parallel and kept for the process, so another
/// value of a dynamic field costs no compile. Fails the doctest case with problem, config, worst
/// coordinate and both values. Without `oracle`, family.cpu_reference() is the oracle.
void check_family(GpuFixture& gpu, const Family& family, const Params& problem,
                  const Oracle& oracle = {}, const FamilyCheck& options = {});

/// Random contents as `spec` describes them; the same for the same seed.
HostTensor random_tensor(const OperandSpec& spec, std::uint32_t seed);

}  // namespace quern::test
