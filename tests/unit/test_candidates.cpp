// What a problem's search has to choose from.
#include <algorithm>

#include "autotune/problem_trials.h"
#include "templates/embedded.h"
#include "tests/support/nvrtc.h"
#include "tests/support/support.h"

using namespace quern;
using namespace quern::test;

TEST_CASE("a vendor's library is always tried, and no candidate comes twice") {
  QUERN_SKIP_IF(!nvrtc(), kNoNvrtc);
  const TemporaryFolder folder;
  KernelLibraryOptions options;
  options.cache_root = folder.path();
  KernelCatalog catalog(parse_arch("sm_90a"), ordered_json{{"name", "some GPU"}},
                        FamilyRegistry::shipped(embedded_templates()), options);
  for (const int m : {1, 2, 16, 2048}) {
    CAPTURE(m);
    const Params problem = {
        {"m", m}, {"n", 4096}, {"k", 4096}, {"dtype", "bf16"}, {"out_dtype", "f32"}};
    const Candidates candidates(catalog, {"gemm", problem});
    const std::vector<Params>& configs = candidates.configs();
    const auto is_vendors = [](const Params& config) { return config.at("kernel") == "cublaslt"; };
    const auto first = std::find_if(configs.begin(), configs.end(), is_vendors);
    REQUIRE(first != configs.end());
    CHECK_EQ(first->at("algorithm"), 0);
    CHECK_LT(first - configs.begin(), candidates.space().num_first);
    CHECK_LE(candidates.space().num_first, 2);
    for (std::size_t i = 0; i < configs.size(); ++i)
      CHECK_EQ(std::count(configs.begin(), configs.end(), configs[i]), 1);

    std::vector<std::size_t> eligible(configs.size());
    for (std::size_t i = 0; i < eligible.size(); ++i) eligible[i] = i;
    const std::vector<std::size_t> begins_with =
        choose_candidates(eligible, SearchOptions{}, candidates.space());
    CHECK(std::any_of(begins_with.begin(), begins_with.end(),
                      [&](std::size_t i) { return is_vendors(configs[i]); }));
  }
}
