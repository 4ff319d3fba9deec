// One small problem of every family, a few configs each: quick enough to run under
// compute-sanitizer (memcheck, racecheck, initcheck), which slows kernels down by one or two orders
// of magnitude.
#include "autotune/row_family.h"
#include "runtime/driver.h"
#include "templates/embedded.h"
#include "templates/embedding/embedding.h"
#include "templates/gemm/gemm.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"
#include "templates/gemm_wna16/gemm_wna16.h"
#include "templates/rope/rope_append.h"
#include "tests/reference/attention.h"
#include "tests/reference/fused_gemm.h"
#include "tests/reference/gemm.h"
#include "tests/reference/gemm_w8a8.h"
#include "tests/reference/gemm_wna16.h"
#include "tests/reference/rope.h"
#include "tests/reference/sampling.h"
#include "tests/support/family_check.h"

using namespace quern;
using namespace quern::test;

namespace {

FamilyCheck few() {
  FamilyCheck check;
  check.max_candidates = 4;
  return check;
}

}  // namespace

TEST_CASE("small: gemm") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const GemmFamily family;
  for (const int m : {1, 3, 16, 65})
    for (const int k : {64, 172}) {
      GemmProblem p;
      p.m = m, p.n = 70, p.k = k;
      check_family(gpu, family, to_params(p), reference_gemm, few());
    }
}

TEST_CASE("small: blocks of a cluster that share the k of more tiles than there are clusters") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  QUERN_SKIP_IF(!gpu.arch().has_wgmma(), "the GPU has no wgmma");
  GemmConfig c;
  c.kernel = "wgmma";
  c.tile_n = 64, c.tile_k = 64, c.stages = 4, c.split_k = 1, c.group_m = 1, c.cluster = 1;
  FamilyCheck gemm, w8a8;
  gemm.max_candidates = w8a8.max_candidates = 1;
  for (const bool pingpong : {false, true}) {
    c.tile_m = pingpong ? 64 : 128, c.pingpong = pingpong;
    for (c.cluster_k = 2; c.cluster_k <= 4; c.cluster_k *= 2) gemm.configs.push_back(to_params(c));
    GemmW8A8Config eight;
    eight.kernel = "wgmma";
    eight.tile_m = c.tile_m, eight.tile_n = 64, eight.tile_k = 128, eight.stages = 4;
    eight.group_m = 1, eight.cluster = 1, eight.cluster_k = 2, eight.pingpong = pingpong;
    w8a8.configs.push_back(to_params(eight));
  }
  GemmProblem p;
  p.m = 1030, p.n = 520, p.k = 256;
  check_family(gpu, GemmFamily(), to_params(p), reference_gemm, gemm);
  GemmW8A8Problem q;
  q.m = p.m, q.n = p.n, q.k = p.k;
  check_family(gpu, GemmW8A8Family(), to_params(q), reference_gemm_w8a8, w8a8);
}

TEST_CASE("small: tiles that all blocks share evenly") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  QUERN_SKIP_IF(!gpu.arch().has_wgmma(), "the GPU has no wgmma");
  // More tiles than SMs, by less than a round and by more.
  FamilyCheck gemm, wna16;
  gemm.max_candidates = wna16.max_candidates = 1;
  GemmConfig c;
  c.kernel = "wgmma";
  c.tile_n = 64, c.tile_k = 64, c.stages = 4, c.split_k = 1, c.group_m = 4;
  c.cluster_k = c.stream_k = 1;
  for (const bool pingpong : {false, true})
    for (c.cluster = 1; c.cluster <= 2; ++c.cluster) {
      c.tile_m = pingpong ? 64 : 128, c.pingpong = pingpong;
      gemm.configs.push_back(to_params(c));
    }
  GemmWna16Config w;
  w.kernel = "wgmma";
  w.tile_m = 64, w.units = 2, w.stages = 3, w.split_k = 1, w.group_m = 4;
  w.cluster_n = w.cluster_k = w.stream_k = 1;
  for (w.warps_k = 1; w.warps_k <= 2; ++w.warps_k)
    for (w.cluster_m = 1; w.cluster_m <= 2; ++w.cluster_m) {
      w.tile_n = w.warps_k == 1 ? 128 : 64, w.warps_n = w.tile_n / 16;
      w.tma_store = w.cluster_m - 1;
      wna16.configs.push_back(to_params(w));
    }
  GemmProblem p;
  p.m = 1030, p.n = 1040, p.k = 320;
  check_family(gpu, GemmFamily(), to_params(p), reference_gemm, gemm);
  GemmWna16Problem q;
  q.m = p.m, q.n = p.n, q.k = 640, q.group_size = 128, q.zero_points = true;
  check_family(gpu, GemmWna16Family(), to_params(q), reference_gemm_wna16, wna16);
}

TEST_CASE("small: gemm_wna16") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const GemmWna16Family family;
  for (const int m : {1, 3, 16, 65})
    for (const int bits : {4, 8}) {
      GemmWna16Problem p;
      p.m = m, p.n = 80, p.k = 192, p.bits = bits, p.zero_points = bits == 4;
      check_family(gpu, family, to_params(p), reference_gemm_wna16, few());
    }
}

TEST_CASE("small: products of 8 bits") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const GemmW8A8Family family;
  for (const int m : {1, 16, 65})
    for (const bool blocks : {false, true}) {
      GemmW8A8Problem p;
      p.m = m, p.n = 72, p.k = 176;
      if (blocks) p.dtype = DType::e4m3, p.x_scale = "group", p.w_scale = "block";
      if (unsupported(p, gpu.arch())) continue;
      check_family(gpu, family, to_params(p), reference_gemm_w8a8, few());
    }
}

TEST_CASE("small: fused gemm") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const FusedGemmFamily family(embedded_templates());
  const auto oracle = [&](const Params& p, std::span<HostTensor> operands) {
    reference_fused_gemm(family, p, operands);
  };
  for (const int m : {1, 16, 65}) {
    const Params gate_up = {{"m", m},          {"n", 96},        {"k", 72},
                            {"dtype", "bf16"}, {"prologue", ""}, {"epilogue", "swiglu"},
                            {"Y", "bf16"}};
    check_family(gpu, family, gate_up, oracle, few());
    const Params residual = {{"m", m},         {"n", 70},           {"k", 172},  {"dtype", "bf16"},
                             {"prologue", ""}, {"epilogue", "add"}, {"R", "f32"}};
    check_family(gpu, family, residual, oracle, few());
    if (m > 16) continue;
    Params normalised = {{"m", m},
                         {"n", 70},
                         {"k", 64},
                         {"dtype", "bf16"},
                         {"prologue", "rmsnorm"},
                         {"epilogue", "bias"},
                         {"eps", 1e-5},
                         {"stream", "bf16"},
                         {"B", "bf16"},
                         {"Y", "bf16"}};
    check_family(gpu, family, normalised, oracle, few());
    normalised["stream"] = "f32";
    check_family(gpu, family, normalised, oracle, few());
  }
}

TEST_CASE("small: fused gemm_wna16") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const FusedGemmWna16Family family(embedded_templates());
  const auto oracle = [&](const Params& p, std::span<HostTensor> operands) {
    reference_fused_gemm_wna16(family, p, operands);
  };
  for (const int m : {1, 3, 16, 65})
    for (const bool swiglu : {false, true}) {
      Params p = {{"m", m},
                  {"n", 80},
                  {"k", 384},
                  {"dtype", "f16"},
                  {"bits", 4},
                  {"group_size", 128},
                  {"zero_points", swiglu},
                  {"prologue", ""},
                  {"epilogue", swiglu ? "swiglu" : "add"}};
      p[swiglu ? "Y" : "R"] = swiglu ? "f16" : "f32";
      check_family(gpu, family, p, oracle, few());
      if (m > 4) continue;
      p.update(Params{{"prologue", "rmsnorm"}, {"eps", 1e-5}, {"stream", "f32"}});
      check_family(gpu, family, p, oracle, few());
    }
}

TEST_CASE("small: row kernels") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  const RowFamily family(embedded_templates());
  for (const int cols : {64, 172}) {
    const Params norm = {{"kernel", "add_rmsnorm"},
                         {"rows", 3},
                         {"cols", cols},
                         {"T", "bf16"},
                         {"R", "f32"},
                         {"eps", 1e-5}};
    const Params silu = {{"kernel", "silu_mul"}, {"rows", 3}, {"cols", cols}, {"T", "bf16"}};
    check_family(gpu, family, norm, {}, few());
    check_family(gpu, family, silu, {}, few());
    if (cols % 8 != 0) continue;
    const Params interleaved = {{"kernel", "silu_mul_interleaved"},
                                {"rows", 3},
                                {"groups", cols / 8},
                                {"lanes", 8},
                                {"T", "bf16"}};
    check_family(gpu, family, interleaved, {}, few());
  }
}

TEST_CASE("small: embedding and rope") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  EmbeddingProblem e;
  e.num_tokens = 5, e.vocab_size = 33, e.hidden_size = 172;
  check_family(gpu, EmbeddingFamily(), to_params(e), {}, few());
  RopeAppendProblem r;
  r.num_tokens = 7, r.batch = 3, r.max_blocks = 2, r.num_pages = 6, r.max_positions = 128;
  r.num_heads = 4, r.num_kv_heads = 2, r.head_dim = 8;
  check_family(gpu, RopeAppendFamily(), to_params(r), rope_append_oracle, few());
}

TEST_CASE("small: attention") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  for (const int head_dim : {8, 64}) {
    const DecodeTrial decode({1, 65, 130});
    check_family(gpu, decode, decode.problem(4, 2, head_dim, 64, 0, DType::bf16),
                 decode_attention_oracle, few());
    const PrefillTrial prefill{{1, 5, 70}, {0, 66, 3}};
    check_family(gpu, prefill, prefill.problem(4, 2, head_dim, 64, 24, DType::bf16),
                 prefill_attention_oracle, few());
  }
}

TEST_CASE("small: sampling") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  GpuFixture gpu;
  std::vector<float> logits(4 * 1000);
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = static_cast<float>((i * 7919) % 2003) * 0.01f;
  std::vector<SamplingRequest> kinds(4);
  kinds[1].temperature = 0.8f;
  kinds[2].temperature = 1.0f, kinds[2].top_k = 20;
  kinds[3].temperature = 1.3f, kinds[3].top_p = 0.9f, kinds[3].min_p = 0.01f;
  const SamplingTrial family(logits, kinds);
  check_family(gpu, family, family.problem(16), sampling_oracle, few());
}
