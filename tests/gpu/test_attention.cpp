#include "runtime/driver.h"
#include "tests/reference/attention.h"
#include "tests/support/family_check.h"

using namespace quern;
using namespace quern::test;

namespace {

FamilyCheck at_most(std::size_t candidates) {
  FamilyCheck check;
  check.max_candidates = candidates;
  return check;
}

struct Heads {
  int num_heads, num_kv_heads, head_dim, page_size, window;
  DType dtype;
};

const Heads all_heads[] = {{4, 1, 128, 64, 0, DType::bf16},  {2, 2, 128, 64, 24, DType::f16},
                           {4, 2, 64, 16, 24, DType::bf16},  {2, 1, 64, 64, 0, DType::f16},
                           {4, 2, 8, 64, 0, DType::bf16},    {2, 2, 8, 32, 24, DType::bf16},
                           {12, 1, 72, 64, 0, DType::bf16},  {3, 1, 256, 64, 0, DType::bf16},
                           {8, 2, 128, 128, 24, DType::bf16}};

template <class Config>
Params config_with(const ordered_json& values, const Arch& arch) {
  Config config;
  config.pdl = arch.has_pdl();
  Params params = to_params(config);
  for (const auto& [key, value] : values.items()) params[key] = value;
  return params;
}

}  // namespace

TEST_CASE("decode attention serves every length, split or not, and reads nothing past it") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const std::vector<std::vector<std::int32_t>> lengths = {
      {1}, {15, 1000}, {64, 65, 63}, {1, 15, 16, 63, 64, 65, 200}, {0, 1000, 0, 333}};
  for (const Heads& h : all_heads)
    for (const auto& kv_len : lengths) {
      const DecodeTrial family(kv_len);
      const Params problem =
          family.problem(h.num_heads, h.num_kv_heads, h.head_dim, h.page_size, h.window, h.dtype);
      FamilyCheck check;
      check.max_candidates = 6;
      for (const int splits : {1, 2, 8, 64})
        check.configs.push_back(config_with<DecodeAttentionConfig>(
            {{"splits", splits}, {"warps", 2}, {"stages", 2}, {"blocks_per_sm", 1}}, gpu.arch()));
      check_family(gpu, family, problem, decode_attention_oracle, check);
    }
}

TEST_CASE("prefill attention is causal over ragged queries and an older past") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const PrefillTrial trials[] = {
      {{1}, {0}}, {{130}, {0}}, {{1, 5, 64, 130}, {0, 200, 3, 37}}, {{17, 1, 3}, {60, 129, 0}}};
  for (const Heads& h : all_heads)
    for (const PrefillTrial& family : trials) {
      const Params problem =
          family.problem(h.num_heads, h.num_kv_heads, h.head_dim, h.page_size, h.window, h.dtype);
      check_family(gpu, family, problem, prefill_attention_oracle, at_most(8));
    }
}
