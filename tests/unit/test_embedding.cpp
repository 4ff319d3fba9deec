#include <cstring>
#include <limits>

#include "compiler/nvrtc.h"
#include "runtime/base/error.h"
#include "templates/embedded.h"
#include "templates/embedding/embedding.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

const EmbeddingFamily family;

Params problem(int tokens, int vocab, int hidden, DType dtype = DType::bf16,
               DType out = DType::bf16) {
  EmbeddingProblem p;
  p.num_tokens = tokens, p.vocab_size = vocab, p.hidden_size = hidden;
  p.dtype = dtype, p.out_dtype = out;
  return to_params(p);
}

}  // namespace

TEST_CASE("embedding candidates are legal and compile for every architecture") {
  const Nvrtc nvrtc;
  for (const Arch& arch : known_archs())
    for (const auto& p :
         {problem(1, 128256, 4096), problem(300, 512, 77, DType::f16, DType::f32)}) {
      INFO(arch.name(), " ", to_text(p));
      const auto configs = family.candidates(p, arch);
      REQUIRE_FALSE(configs.empty());
      for (const Params& config : configs) CHECK_FALSE(family.reject_reason(p, config, arch));
      const KernelSource source = family.source(p, configs.front(), arch);
      const KernelImage image = nvrtc.compile(
          {"embedding", source.source, source.entry, arch, source.options}, embedded_templates());
      CHECK_EQ(image.report.stack_bytes, 0);
    }
}

TEST_CASE("embedding refuses what it cannot do") {
  const Arch arch = parse_arch("sm_80");
  CHECK(family.unsupported(problem(0, 10, 64), arch));
  CHECK(family.unsupported(problem(1, std::numeric_limits<int>::max(), 64), arch));
  CHECK(family.unsupported(problem(1, 10, 64, DType::i8, DType::i8), arch));
  CHECK(family.unsupported(problem(1, 10, 64, DType::f32, DType::bf16), arch));
  const Params p = problem(1, 10, 77);
  EmbeddingConfig config;
  CHECK(family.reject_reason(p, to_params(config), arch));
  config.vector_bytes = 2;
  CHECK_FALSE(family.reject_reason(p, to_params(config), arch));
  config.threads = -1;
  CHECK(family.reject_reason(p, to_params(config), arch));
  CHECK_THROWS_AS(family.plan(p, to_params(config), arch), InputError);
}

TEST_CASE("ids outside the table give zero rows") {
  const Params p = problem(3, 2, 2, DType::bf16, DType::f32);
  std::vector<HostTensor> tensors;
  for (const OperandSpec& spec : family.operands(p))
    tensors.push_back({spec, std::vector<std::byte>(spec.size_bytes(), std::byte{0xff})});
  const std::int32_t ids[] = {1, -1, 2};
  std::memcpy(tensors[0].data.data(), ids, sizeof ids);
  const std::uint16_t table[] = {0x3f80, 0x4000, 0x4040, 0x4080};  // 1, 2, 3, 4
  std::memcpy(tensors[1].data.data(), table, sizeof table);
  family.cpu_reference(p, tensors);
  float y[6];
  std::memcpy(y, tensors[2].data.data(), sizeof y);
  CHECK_EQ(y[0], 3.0f);
  CHECK_EQ(y[1], 4.0f);
  for (int i = 2; i < 6; ++i) CHECK_EQ(y[i], 0.0f);
}
