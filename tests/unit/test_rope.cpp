#include "templates/rope/rope_append.h"

#include "tests/reference/rope.h"
#include "tests/support/family_rules.h"
#include "tests/support/gpu.h"

using namespace quern;
using namespace quern::test;

namespace {

const RopeAppendFamily family;

Params problem(int tokens, int head_dim, DType dtype, DType qkv_dtype) {
  RopeAppendProblem p;
  p.num_tokens = tokens, p.batch = 3, p.max_blocks = 4, p.num_pages = 12, p.max_positions = 256;
  p.num_heads = 6, p.num_kv_heads = 2, p.head_dim = head_dim, p.dtype = dtype;
  p.qkv_dtype = qkv_dtype;
  return to_params(p);
}

}  // namespace

TEST_CASE("rope_append obeys the rules of families and compiles everywhere") {
  for (const int head_dim : {8, 64, 72, 128, 256})
    for (const int tokens : {1, 7, 300})
      check_family_rules(family, problem(tokens, head_dim, DType::bf16, DType::f32));
  check_family_compiles(family, problem(1, 128, DType::bf16, DType::f32), 3);
  check_family_compiles(family, problem(1, 8, DType::f16, DType::f16), 0);
  Params biased = problem(1, 128, DType::bf16, DType::f32);
  biased["bias"] = true;
  check_family_rules(family, biased);
  check_family_compiles(family, biased, 0);
  check_family_refuses_nonsense(family, problem(7, 64, DType::bf16, DType::bf16));
}

TEST_CASE("rope_append's reference agrees with the formula, element by element") {
  for (const auto& [dtype, qkv_dtype] : {std::pair{DType::bf16, DType::bf16},
                                         {DType::f16, DType::f16},
                                         {DType::bf16, DType::f32}}) {
    Params p = problem(20, 24, dtype, qkv_dtype);
    p["bias"] = qkv_dtype == DType::f32;
    std::vector<HostTensor> actual;
    for (const OperandSpec& spec : family.operands(p)) {
      HostTensor tensor{spec, std::vector<std::byte>(spec.size_bytes())};
      if (!spec.values.empty())
        std::memcpy(tensor.data.data(), spec.values.data(), tensor.data.size());
      else
        tensor.data = encode(random_values(spec.num_elements(), 5), spec.dtype);
      actual.push_back(tensor);
    }
    reinterpret_cast<std::int32_t*>(actual[3].data.data())[4] = -1;
    auto expected = actual;
    family.cpu_reference(p, actual);
    rope_append_oracle(p, expected);
    for (const std::size_t i : {std::size_t{5}, std::size_t{6}, std::size_t{7}})
      QUERN_CHECK_CLOSE(decode(actual[i].data, dtype), decode(expected[i].data, dtype),
                        family.tolerance(p, i).abs, family.tolerance(p, i).rel);
  }
}
