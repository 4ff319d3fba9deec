#include "runtime/base/error.h"
#include "templates/attention/decode_attention.h"
#include "templates/attention/paged_cache.h"
#include "templates/attention/prefill_attention.h"
#include "templates/common/workspace_args.h"
#include "tests/support/family_rules.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

namespace {

const DecodeAttentionFamily decode_family;
const PrefillAttentionFamily prefill_family;

DecodeAttentionProblem decode_problem(int head_dim, int num_heads, int num_kv_heads) {
  DecodeAttentionProblem p;
  p.head_dim = head_dim, p.num_heads = num_heads, p.num_kv_heads = num_kv_heads;
  return p;
}

PrefillAttentionProblem prefill_problem(int head_dim, int num_heads, int num_kv_heads) {
  PrefillAttentionProblem p;
  p.head_dim = head_dim, p.num_heads = num_heads, p.num_kv_heads = num_kv_heads;
  return p;
}

bool mentions(const std::optional<std::string>& reason, const std::string& words) {
  return reason && reason->find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("attention candidates are legal and their plans can be launched") {
  for (const int head_dim : {8, 64, 72, 128, 256})
    for (const auto& [heads, kv_heads] : {std::pair{32, 8}, {1, 1}, {16, 1}, {15, 3}}) {
      auto d = decode_problem(head_dim, heads, kv_heads);
      check_family_rules(decode_family, to_params(d));
      d.batch = 2500, d.page_size = 16, d.max_kv_len = 256, d.window = 24, d.dtype = DType::f16;
      check_family_rules(decode_family, to_params(d));
      auto p = prefill_problem(head_dim, heads, kv_heads);
      check_family_rules(prefill_family, to_params(p));
      p.batch = 3, p.num_tokens = 500, p.max_query_len = 200, p.page_size = 16, p.window = 24;
      check_family_rules(prefill_family, to_params(p));
    }
}

TEST_CASE("attention kernels compile for every architecture without spilling") {
  for (const auto& [head_dim, heads] : {std::pair{128, 32}, {64, 32}, {8, 16}}) {
    check_family_compiles(decode_family, to_params(decode_problem(head_dim, heads, 8)),
                          head_dim == 128 ? 6 : 1);
    check_family_compiles(prefill_family, to_params(prefill_problem(head_dim, heads, 8)),
                          head_dim == 128 ? 6 : 1);
  }
  check_family_compiles(decode_family, to_params(decode_problem(256, 16, 1)), 0);
  check_family_compiles(prefill_family, to_params(prefill_problem(256, 16, 1)), 0);
}

TEST_CASE("attention refuses what it cannot do, with numbers") {
  check_family_refuses_nonsense(decode_family, to_params(decode_problem(128, 32, 8)));
  check_family_refuses_nonsense(prefill_family, to_params(prefill_problem(128, 32, 8)));
  const Arch arch = parse_arch("sm_86");
  CHECK(mentions(decode_family.unsupported(to_params(decode_problem(100, 32, 8)), arch),
                 "head_dim 100 is not a multiple of 8"));
  CHECK(mentions(prefill_family.unsupported(to_params(prefill_problem(128, 32, 3)), arch),
                 "do not divide"));
  DecodeAttentionConfig c;
  c.pdl = false, c.stages = 4;
  const Params problem = to_params(decode_problem(128, 32, 8));
  CHECK(mentions(decode_family.reject_reason(problem, to_params(c), arch),
                 "140288 bytes of shared memory exceed the 101376 of a block"));
  c.pdl = true;
  CHECK(mentions(decode_family.reject_reason(problem, to_params(c), arch), "programmatic"));
}

TEST_CASE("splits fill the GPU, never exceed the work, and bring their workspace") {
  const Arch arch = parse_arch("sm_90a");
  auto problem = decode_problem(128, 32, 8);
  const Params config = to_params(DecodeAttentionConfig{});
  auto plan = decode_family.plan(to_params(problem), config, arch);
  CHECK_EQ(plan.grid[0], 16);  // 1024 positions in steps of 4 warps x 16
  CHECK_EQ(plan.workspace_bytes, kCounterBytes + std::size_t{32} * 16 * 130 * 4);
  problem.batch = 16;
  CHECK_EQ(decode_family.plan(to_params(problem), config, arch).grid[0], 2);
  problem.batch = 64;
  plan = decode_family.plan(to_params(problem), config, arch);
  CHECK_EQ(plan.grid[0], 1);
  CHECK_EQ(plan.workspace_bytes, 0);
}

TEST_CASE("a scrambled block table deals each page once") {
  const std::vector<std::int32_t> kv_len = {1, 130, 64};
  const auto table = scrambled_block_table(kv_len, 3, 9, 64);
  REQUIRE_EQ(table.size(), 9);
  std::vector<int> uses(9);
  for (const std::size_t used : {0, 3, 4, 5, 6}) ++uses[static_cast<std::size_t>(table[used])];
  for (const int count : uses) CHECK_LE(count, 1);
}
