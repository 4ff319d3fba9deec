#include "runtime/driver.h"
#include "templates/rope/rope_append.h"
#include "tests/reference/rope.h"
#include "tests/support/family_check.h"

using namespace quern;
using namespace quern::test;

namespace {

FamilyCheck at_most(std::size_t candidates) {
  FamilyCheck check;
  check.max_candidates = candidates;
  return check;
}

/// Every third token is padding.
class PaddedRope : public RopeAppendFamily {
 public:
  std::vector<OperandSpec> operands(const Params& problem) const override {
    auto operands = RopeAppendFamily::operands(problem);
    for (std::size_t i = 1; i < operands[3].values.size(); i += 3) operands[3].values[i] = -1;
    return operands;
  }
};

}  // namespace

TEST_CASE("queries and keys are rotated, keys and values appended, padding skipped") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const PaddedRope family;
  for (const auto& [dtype, qkv_dtype] : {std::pair{DType::bf16, DType::f32},
                                         {DType::bf16, DType::bf16},
                                         {DType::f16, DType::f16}})
    for (const int head_dim : {8, 64, 128, 72})
      for (const int tokens : {1, 2, 7, 130}) {
        RopeAppendProblem p;
        p.num_tokens = tokens, p.batch = 3, p.max_blocks = 4, p.num_pages = 12;
        p.max_positions = 256, p.num_heads = 6, p.num_kv_heads = 2, p.head_dim = head_dim;
        p.dtype = dtype, p.qkv_dtype = qkv_dtype, p.bias = tokens == 7;
        check_family(gpu, family, to_params(p), rope_append_oracle, at_most(4));
      }
}
