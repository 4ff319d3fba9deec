// The kernel families that Quern ships, one line each.
#include <utility>

#include "autotune/fused_gemm.h"
#include "autotune/fused_gemm_wna16.h"
#include "autotune/registry.h"
#include "autotune/row_family.h"
#include "templates/attention/decode_attention.h"
#include "templates/attention/prefill_attention.h"
#include "templates/embedding/embedding.h"
#include "templates/gemm/gemm.h"
#include "templates/gemm_w8a8/gemm_w8a8.h"
#include "templates/gemm_wna16/gemm_wna16.h"
#include "templates/gemm_wna16/repack.h"
#include "templates/rope/rope_append.h"
#include "templates/sampling/sampling.h"
#include "templates/utility/library_product.h"
#include "templates/utility/utility.h"

namespace quern {

std::vector<std::unique_ptr<const Family>> shipped_families(const HeaderMap& templates) {
  std::vector<std::unique_ptr<const Family>> families;
  families.push_back(std::make_unique<GemmFamily>());
  families.push_back(std::make_unique<GemmWna16Family>());
  families.push_back(std::make_unique<GemmW8A8Family>());
  families.push_back(std::make_unique<FusedGemmFamily>(templates));
  families.push_back(std::make_unique<FusedGemmWna16Family>(templates));
  families.push_back(make_wna16_repack_family());
  families.push_back(std::make_unique<RowFamily>(templates));
  families.push_back(std::make_unique<EmbeddingFamily>());
  families.push_back(std::make_unique<RopeAppendFamily>());
  families.push_back(std::make_unique<DecodeAttentionFamily>());
  families.push_back(std::make_unique<PrefillAttentionFamily>());
  families.push_back(std::make_unique<SamplingFamily>());
  families.push_back(make_fill_family());
  families.push_back(make_stream_family());
  families.push_back(make_library_product_family());
  return families;
}

FamilyRegistry FamilyRegistry::shipped(HeaderMap templates) {
  FamilyRegistry registry(std::move(templates));
  for (auto& family : shipped_families(registry.templates())) registry.add(std::move(family));
  return registry;
}

}  // namespace quern
