// Choice of the next token of each sequence, and the bookkeeping of a decode step.
//
// temperature <= 0: the largest logit. Otherwise, with s = logit / temperature:
//   top_k   keeps logits not below the k-th largest;
//   top_p   then keeps the fewest most probable tokens whose renormalised mass reaches p;
//   min_p   then keeps tokens of probability at least min_p times the largest;
//   choice  argmax over what is kept of s + gumbel(u), u from Philox, key = seed, counter = (token
//           id, new position, 0, 0), which draws from the softmax of what is kept.
// Ties at thresholds are kept; ties of the choice go to the lowest index. A NaN is never chosen
// unless all are. If the largest s is infinite, it is chosen. Then token = choice, position += 1,
// kv_len += 1, and log[position] = choice where it fits.
//
// gridDim.x blocks share a sequence's logits: each reduces its part to one packed (value, ~index),
// the last to arrive finishes. That is all for greedy and for unfiltered sampling. For filters the
// last block goes on alone: it lists the tokens within a few units of the maximum in shared memory
// and searches the thresholds there, by bisection over the ordered bits of the logits, three pivots
// a pass; masses are integers (units of 2^-40 of the largest probability), so that no sum depends on
// an order. Where the list does not decide (flat distributions), the passes run over all logits,
// which lie in L2.
//
// Tunables: threads; blocks per sequence (host only).
#pragma once
#include "common/grid.cuh"
#include "common/math.cuh"
#include "common/memory.cuh"
#include "common/workspace_args.h"
#include "sampling/philox.cuh"
#include "sampling/sampling_args.h"

namespace quern {

/// Monotone in x, equal for -0 and 0, at least 1; 0 for NaN.
__device__ __forceinline__ u32 ordered_key(float x) {
  const u32 bits = __float_as_uint(x + 0.0f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float value_of_key(u32 key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}
/// Greater value first, then lower index.
__device__ __forceinline__ u64 packed_choice(float value, u32 index) {
  return static_cast<u64>(ordered_key(value)) << 32 | static_cast<u64>(0xffffffffu - index);
}
__device__ __forceinline__ u32 index_of_choice(u64 packed) {
  return 0xffffffffu - static_cast<u32>(packed);
}
__device__ __forceinline__ u64 larger(u64 a, u64 b) { return a > b ? a : b; }

template <class Problem, class Config>
struct Sampler {
  static constexpr int threads = Config::threads, warps = threads / kWarp;
  static constexpr int vocab_size = Problem::vocab_size;
  static constexpr int vector = vocab_size % 4 == 0 ? 4 : vocab_size % 2 == 0 ? 2 : 1;
  static constexpr u32 capacity = 4096;  // of the list

  struct Shared {
    u32 key[capacity], index[capacity];
    u64 scratch[3][32];
    u32 count, floor, flag;
  };

  const float* logits;  // of this sequence
  SamplingRequest params;
  u32 position;
  Shared& shared;
  float top;     // largest scaled logit
  bool listed;   // the list holds every token of key >= shared.floor

  __device__ float scaled(float logit) const { return logit / params.temperature; }
  __device__ u64 mass(float logit) const {
    const float p = expf(scaled(logit) - top);
    return p > 0.0f ? static_cast<u64>(p * 1099511627776.0f) : 0;  // 2^40; NaN has no mass
  }
  __device__ u64 perturbed(float logit, u32 index) const {
    const u32 x = philox(params.seed_low, params.seed_high, index, position);
    return packed_choice(scaled(logit) + gumbel(x), index);
  }

  /// visit(logit, index) for this thread's share of all logits, divided among `blocks` blocks.
  template <class Visit>
  __device__ __forceinline__ void each_logit(u32 block, u32 blocks, const Visit& visit) const {
    for (u32 i = (block * threads + threadIdx.x) * vector; i < static_cast<u32>(vocab_size);
         i += blocks * threads * vector) {
      const auto part = load_vec<float, vector>(logits + i);
#pragma unroll
      for (int e = 0; e < vector; ++e) visit(part.element[e], i + e);
    }
  }
  /// The same over the list where `from_list`, else over all logits in this block alone.
  template <class Visit>
  __device__ __forceinline__ void each_candidate(bool from_list, const Visit& visit) const {
    if (from_list)
      for (u32 i = threadIdx.x; i < shared.count; i += threads)
        visit(value_of_key(shared.key[i]), shared.index[i]);
    else
      each_logit(0, 1, visit);
  }

  __device__ u64 block_max(u64 x) const {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2)
      x = larger(x, __shfl_xor_sync(0xffffffffu, x, offset));
    __syncthreads();
    if (threadIdx.x % kWarp == 0) shared.scratch[0][threadIdx.x / kWarp] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < warps; ++w) x = larger(x, shared.scratch[0][w]);
    return x;
  }
  __device__ void block_sum(u64 (&x)[3]) const {
#pragma unroll
    for (int i = 0; i < 3; ++i)
#pragma unroll
      for (int offset = kWarp / 2; offset > 0; offset /= 2)
        x[i] += __shfl_xor_sync(0xffffffffu, x[i], offset);
    __syncthreads();
    if (threadIdx.x % kWarp == 0)
      for (int i = 0; i < 3; ++i) shared.scratch[i][threadIdx.x / kWarp] = x[i];
    __syncthreads();
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      x[i] = lane < warps ? shared.scratch[i][lane] : 0;
#pragma unroll
      for (int offset = kWarp / 2; offset > 0; offset /= 2)
        x[i] += __shfl_xor_sync(0xffffffffu, x[i], offset);
    }
  }

  /// Sum of `weight` over the tokens whose key is at least `least`.
  template <class Weight>
  __device__ u64 total_from(bool from_list, u32 least, const Weight& weight) const {
    u64 sum[3] = {};
    each_candidate(from_list, [&](float logit, u32) {
      if (ordered_key(logit) >= least) sum[0] += weight(logit);
    });
    block_sum(sum);
    return sum[0];
  }

  /// The greatest key in [low, high] such that tokens of at least that key weigh `target` together;
  /// low if there is none.
  template <class Weight>
  __device__ u32 search(bool from_list, u32 low, u32 high, u64 target, const Weight& weight) const {
    while (low < high) {
      const u64 span = high - low;
      u32 pivot[3];
#pragma unroll
      for (int i = 0; i < 3; ++i) pivot[i] = low + static_cast<u32>((span * (i + 1) + 3) / 4);
      u64 sum[3] = {};
      each_candidate(from_list, [&](float logit, u32) {
        const u32 key = ordered_key(logit);
        if (key < pivot[0]) return;
        const u64 w = weight(logit);
#pragma unroll
        for (int i = 0; i < 3; ++i) sum[i] += key >= pivot[i] ? w : 0;
      });
      block_sum(sum);
      if (sum[2] >= target) {
        low = pivot[2];
      } else if (sum[1] >= target) {
        low = pivot[1];
        high = pivot[2] - 1;
      } else if (sum[0] >= target) {
        low = pivot[0];
        high = pivot[1] - 1;
      } else {
        high = pivot[0] - 1;
      }
    }
    return low;
  }

  /// Lists all tokens within `reach` of the maximum, for the largest reach at which they fit.
  /// Returns the mass of all tokens.
  __device__ u64 make_list(float& reach) {
    u64 sum[3] = {};
    bool first_pass = true;
    for (reach = 10.0f; reach > 0.5f; reach *= 0.5f) {
      __syncthreads();
      if (threadIdx.x == 0) {
        shared.count = 0;
        shared.floor = 0xffffffffu;
      }
      __syncthreads();
      each_logit(0, 1, [&](float logit, u32 index) {
        if (first_pass) sum[0] += mass(logit);
        if (!(scaled(logit) >= top - reach)) return;
        const u32 slot = atomicAdd(&shared.count, 1u);
        if (slot >= capacity) return;
        shared.key[slot] = ordered_key(logit);
        shared.index[slot] = index;
        atomicMin(&shared.floor, ordered_key(logit));
      });
      if (first_pass) block_sum(sum);
      first_pass = false;
      __syncthreads();
      listed = shared.count <= capacity;
      if (listed) break;
    }
    return sum[0];
  }

  /// Packed choice among the tokens that the filters keep. `greatest` is the key of the maximum.
  __device__ u64 choose_filtered(u32 greatest) {
    const auto one = [](float) { return u64{1}; };
    const auto probability = [this](float logit) { return mass(logit); };
    float reach;
    u64 total = make_list(reach);
    u32 least = 1;  // of the keys kept so far; leaves out NaN
    if (params.top_k > 0 && params.top_k < vocab_size) {
      const bool here = listed && shared.count >= static_cast<u32>(params.top_k);
      least = search(here, here ? shared.floor : 1, greatest, static_cast<u64>(params.top_k), one);
      total = total_from(here, least, probability);
    }
    if (params.top_p < 1.0f) {
      const double wanted = ceil(static_cast<double>(params.top_p) * static_cast<double>(total));
      const u64 target = wanted > 1.0 ? static_cast<u64>(wanted) : 1;
      const bool here = listed && total_from(true, least, probability) >= target;
      const u32 low = here && shared.floor > least ? shared.floor : least;
      least = search(here, low, greatest, target, probability);
    }
    // Tokens outside the list are out either by key or by min_p, with a margin for rounding.
    const bool here =
        listed && (least >= shared.floor || params.min_p > 1.001f * expf(-reach));
    u64 best = 0;
    each_candidate(here, [&](float logit, u32 index) {
      if (ordered_key(logit) < least) return;
      if (params.min_p > 0.0f && !(expf(scaled(logit) - top) >= params.min_p) &&
          ordered_key(logit) != greatest)
        return;
      best = larger(best, perturbed(logit, index));
    });
    return block_max(best);
  }
};

template <class Problem, class Config>
__device__ __forceinline__ void sample(const SamplingArgs& args) {
  using S = Sampler<Problem, Config>;
  __shared__ typename S::Shared shared;
  pdl_launch_dependents();
  pdl_wait();

  const u32 batch = blockIdx.y, block = blockIdx.x, blocks = gridDim.x;
  const int position = args.position[batch];
  S sampler{args.logits + static_cast<i64>(batch) * Problem::vocab_size, args.params[batch],
            static_cast<u32>(position) + 1, shared, 0.0f, false};
  const SamplingRequest& params = sampler.params;
  const bool random = params.temperature > 0.0f;
  const bool filtered = random && ((params.top_k > 0 && params.top_k < Problem::vocab_size) ||
                                   params.top_p < 1.0f || params.min_p > 0.0f);
  u64 best = 0;
  if (random && !filtered)
    sampler.each_logit(block, blocks, [&](float logit, u32 index) {
      best = larger(best, sampler.perturbed(logit, index));
    });
  else
    sampler.each_logit(block, blocks, [&](float logit, u32 index) {
      best = larger(best, packed_choice(logit, index));
    });
  best = sampler.block_max(best);

  u64* const parts = reinterpret_cast<u64*>(static_cast<unsigned char*>(args.workspace) +
                                            kCounterBytes) +
                     static_cast<i64>(batch) * blocks;
  if (threadIdx.x == 0) parts[block] = best;
  if (!last_block(static_cast<u32*>(args.workspace) + batch, blocks, &shared.flag)) return;
  best = 0;
  for (u32 i = threadIdx.x; i < blocks; i += S::threads)
    best = larger(best, load_from_l2<u64>(parts + i));
  best = sampler.block_max(best);

  if (filtered) {
    const u32 greatest = static_cast<u32>(best >> 32);
    sampler.top = greatest == 0 ? negative_infinity() : sampler.scaled(value_of_key(greatest));
    if (sampler.top > negative_infinity() && sampler.top < -negative_infinity())
      best = sampler.choose_filtered(greatest);
  }
  if (threadIdx.x == 0) {
    const int token = static_cast<int>(index_of_choice(best));
    args.token[batch] = token;
    args.position[batch] = position + 1;
    args.kv_len[batch] += 1;
    if (position + 1 >= 0 && position + 1 < args.log_capacity)
      args.log[static_cast<i64>(batch) * args.log_capacity + position + 1] = token;
  }
}

}  // namespace quern
