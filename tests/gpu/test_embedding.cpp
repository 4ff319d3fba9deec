#include "runtime/driver.h"
#include "templates/embedding/embedding.h"
#include "tests/support/family_check.h"

using namespace quern;
using namespace quern::test;

TEST_CASE("gathered rows are exact, and zero for ids outside the table") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const EmbeddingFamily family;
  for (const auto& [dtype, out] : {std::pair{DType::bf16, DType::bf16},
                                   {DType::f16, DType::f32},
                                   {DType::bf16, DType::f32},
                                   {DType::f32, DType::f32}})
    for (const int hidden : {64, 172, 77, 4096})
      for (const int tokens : {1, 13, 257}) {
        EmbeddingProblem p;
        p.num_tokens = tokens, p.vocab_size = 1001, p.hidden_size = hidden;
        p.dtype = dtype, p.out_dtype = out;
        FamilyCheck check;
        check.max_candidates = 4;
        check_family(gpu, family, to_params(p), {}, check);
      }
}
