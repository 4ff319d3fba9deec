#pragma once
#include <initializer_list>
#include <vector>

// The points of mma.sync tiles (gemm/mma.cuh, gemm_w8a8/mma.cuh), before pruning.

namespace quern {

/// The first of ascending `steps` that is no less than the value, else the last.
inline int round_up_to(int value, std::initializer_list<int> steps) {
  for (const int step : steps)
    if (value <= step) return step;
  return *(steps.end() - 1);
}

/// Of `m` rows, with tile_k from `least_tile_k` to 128. A Config is of kernel "mma" as it comes.
template <class Config>
void add_mma_points(int m, int least_tile_k, std::vector<Config>& out) {
  Config c;
  for (c.tile_m = 16; c.tile_m <= 128; c.tile_m *= 2) {
    if (c.tile_m > 16 && c.tile_m >= 2 * m) break;  // mostly padding
    const int tiles_m = (m + c.tile_m - 1) / c.tile_m;
    if (tiles_m > 2 && c.tile_m < 64) continue;  // each of them would read all of w
    for (c.tile_n = 32; c.tile_n <= 256; c.tile_n *= 2)
      for (c.tile_k = least_tile_k; c.tile_k <= 128; c.tile_k *= 2)
        for (c.warps_m = 1; c.warps_m <= 4; c.warps_m *= 2)
          for (c.warps_n = 1; c.warps_n <= 8; c.warps_n *= 2) {
            const int warps = c.warps_m * c.warps_n;
            if (warps < 2 || warps > 8) continue;
            for (const int stages : {2, 3, 4, 6})
              for (const int split_k : {1, 2, 3, 4, 6, 8, 16}) {
                if (c.tile_m > 16 && split_k > 8) continue;  // sums of many rows cost more to add
                c.stages = stages, c.split_k = split_k;
                // A group of all tiles along m is the same whatever larger number it is given.
                for (const int group_m : {1, 4, 8, 16}) {
                  if (tiles_m <= 4 && group_m != round_up_to(tiles_m, {1, 4})) continue;
                  if (tiles_m > 4 && group_m < 8) continue;  // these read w too often
                  if (group_m > round_up_to(tiles_m, {1, 4, 8, 16})) continue;
                  c.group_m = group_m;
                  out.push_back(c);
                }
              }
          }
  }
}

}  // namespace quern
