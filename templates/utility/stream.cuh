// Reads every byte once and keeps nothing: the roof that memory-bound kernels are judged against.
//
// Tunables: unroll, 16-byte loads in flight per thread; blocks_per_sm. On one H200 a read-only
// stream of 4 GB reached 97% of the datasheet's 4.8 TB/s.
#pragma once
#include "common/grid.cuh"
#include "common/memory.cuh"
#include "utility/utility_args.h"

namespace quern {

template <class Config>
__device__ __forceinline__ void stream_read(const StreamArgs& args) {
  const auto* in = static_cast<const Bytes<16>*>(args.in);
  const u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
  u32 sum = 0;
  pdl_wait();
  pdl_launch_dependents();
  u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + (Config::unroll - 1) * threads < args.words; i += Config::unroll * threads) {
    Bytes<16> v[Config::unroll];
#pragma unroll
    for (int u = 0; u < Config::unroll; ++u) v[u] = load_streaming(in + i + u * threads);
#pragma unroll
    for (int u = 0; u < Config::unroll; ++u)
      sum ^= v[u].word[0] ^ v[u].word[1] ^ v[u].word[2] ^ v[u].word[3];
  }
  for (; i < args.words; i += threads) {
    const Bytes<16> v = load_streaming(in + i);
    sum ^= v.word[0] ^ v.word[1] ^ v.word[2] ^ v.word[3];
  }
  if (sum == 0x7fc12345u) *args.out = 1.0f;  // practically never: the loads must not be removed
}

}  // namespace quern
