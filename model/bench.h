#pragma once
#include <functional>
#include <string>
#include <vector>

#include "model/backend.h"
#include "model/gpu_session.h"

namespace quern {

/// One row of `quern bench`.
struct BenchResult {
  std::string phase;     // "decode" or "prefill"
  int batch = 1;         // sequences
  int tokens = 0;        // decode: steps timed; prefill: prompt length
  int context = 0;       // decode: tokens in the KV cache of each sequence at the start
  double ms = 0;         // median time of a step, or of a whole prefill
  double spread_ms = 0;  // half of the interquartile range
  double tokens_per_second = 0;
  double bytes = 0;  // decode: weights and KV that a step must read
  double flops = 0;  // prefill: of the products and of causal attention
};

/// Decode steps of `batch` sequences that hold `context` tokens each: one warm-up of a tenth, then
/// `steps` timed one by one with events.
BenchResult bench_decode(GpuSession& session, GpuModel& model, const ModelConfig& config, int batch,
                         int context, int steps);
/// Prefill of one prompt of `tokens` random tokens, from an empty cache to the first sampled token.
BenchResult bench_prefill(GpuModel& model, const ModelConfig& config, int tokens, int repeats);

/// The same for the one sequence of a backend, on the host's clock; no bytes or flops are counted.
BenchResult bench_decode(Backend& backend, int context, int steps);
BenchResult bench_prefill(Backend& backend, int tokens, int repeats);

}  // namespace quern
