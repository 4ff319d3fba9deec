#include "tests/support/wna16_kinds.h"

namespace quern::test {
namespace {

GemmWna16Config stream(int tile_m, int warps_n, int warps_k, int units, int stages, int split_k) {
  GemmWna16Config c;
  c.kernel = "stream";
  c.tile_m = tile_m, c.warps_n = warps_n, c.warps_k = warps_k, c.units = units;
  c.stages = stages, c.split_k = split_k, c.blocks_per_sm = 1;
  return c;
}

GemmWna16Config mma(int tile_m, int tile_n, int warps_n, int units, int stages, int split_k) {
  GemmWna16Config c;
  c.tile_m = tile_m, c.tile_n = tile_n, c.warps_n = warps_n, c.units = units, c.stages = stages;
  c.split_k = split_k;
  return c;
}

GemmWna16Config wgmma(int tile_m, int tile_n, int warps_n, int warps_k, int units, int stages) {
  GemmWna16Config c;
  c.kernel = "wgmma";
  c.tile_m = tile_m, c.tile_n = tile_n, c.warps_n = warps_n, c.warps_k = warps_k;
  c.units = units, c.stages = stages, c.split_k = 1;
  c.cluster_m = c.cluster_n = c.cluster_k = c.group_m = 1;
  return c;
}
GemmWna16Config split(GemmWna16Config c, int split_k) {
  c.split_k = split_k;
  return c;
}
GemmWna16Config cluster(GemmWna16Config c, int m, int n, int k) {
  c.cluster_m = m, c.cluster_n = n, c.cluster_k = k, c.group_m = 4;
  return c;
}
GemmWna16Config stored_by_tma(GemmWna16Config c) {
  c.tma_store = 1;
  return c;
}

}  // namespace

GemmWna16Config wna16_slices(const GemmWna16Problem& p, int tile_m, int warps_k, int spans,
                             int stages, int cluster, int blocks_per_sm, int warps_n) {
  GemmWna16Config c;
  c.kernel = "slices";
  c.tile_m = tile_m, c.warps_k = warps_k, c.units = spans * p.bits / 2, c.stages = stages;
  c.cluster_k = cluster, c.blocks_per_sm = blocks_per_sm, c.warps_n = warps_n;
  return c;
}

std::vector<Params> wna16_kinds(const GemmWna16Problem& p, const Arch& arch) {
  std::vector<GemmWna16Config> all;
  for (const int tile_m : {1, 2, 4, 8, 16}) {
    all.push_back(stream(tile_m, 1, 4, 4, 3, 1));
    all.push_back(stream(tile_m, 4, 2, 2, 4, 2));
    all.push_back(stream(tile_m, 2, 1, 1, 2, 1));
    all.push_back(stream(tile_m, 3, 2, 4, 2, 3));
    all.push_back(wna16_slices(p, tile_m, 16, 1, 2, 1));
    all.push_back(wna16_slices(p, tile_m, 8, 1, 3, 1, 2));
    all.push_back(wna16_slices(p, tile_m, 4, 2, 3, 1));
    all.push_back(wna16_slices(p, tile_m, 2, 1, 2, 2));
    all.push_back(wna16_slices(p, tile_m, 1, 1, 4, 4));
    all.push_back(wna16_slices(p, tile_m, 1, 2, 3, 2));
    all.push_back(wna16_slices(p, tile_m, 2, 1, 2, 2, 1, 2));
    all.push_back(wna16_slices(p, tile_m, 2, 1, 2, 1, 1, 4));
  }
  all.push_back(mma(16, 32, 2, 2, 2, 1));
  all.push_back(mma(32, 64, 2, 4, 3, 2));
  all.push_back(mma(64, 96, 3, 2, 2, 3));
  all.push_back(mma(64, 128, 2, 4, 2, 1));
  all.push_back(mma(128, 128, 4, 2, 2, 1));
  all.push_back(wgmma(32, 128, 8, 1, 2, 2));
  all.push_back(stored_by_tma(wgmma(16, 128, 8, 1, 2, 3)));
  all.push_back(split(wgmma(64, 256, 16, 1, 2, 3), 3));
  all.push_back(stored_by_tma(wgmma(128, 256, 8, 1, 2, 3)));
  all.push_back(stored_by_tma(split(wgmma(256, 128, 8, 1, 4, 2), 2)));
  all.push_back(stored_by_tma(wgmma(192, 128, 8, 1, 1, 4)));
  all.push_back(stored_by_tma(cluster(wgmma(128, 192, 12, 1, 2, 3), 2, 1, 1)));
  all.push_back(cluster(wgmma(64, 128, 8, 1, 2, 3), 1, 2, 1));
  all.push_back(cluster(wgmma(32, 128, 8, 1, 2, 3), 2, 2, 1));
  all.push_back(cluster(wgmma(64, 192, 12, 1, 1, 3), 1, 1, 4));
  all.push_back(cluster(wgmma(64, 64, 4, 2, 4, 2), 1, 1, 2));
  all.push_back(cluster(wgmma(32, 128, 8, 2, 4, 2), 2, 1, 2));
  std::vector<Params> out;
  for (const GemmWna16Config& config : all)
    if (!reject_reason(p, config, arch)) out.push_back(to_params(config));
  return out;
}

}  // namespace quern::test
