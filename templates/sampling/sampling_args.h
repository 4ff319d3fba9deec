#pragma once

namespace quern {

/// How the next token of one sequence is chosen: a row of the `params` operand.
struct SamplingRequest {
  float temperature;  // <= 0: the most likely token
  int top_k;          // 0: off
  float top_p;        // 1: off
  float min_p;        // 0: off
  unsigned seed_low, seed_high;
  int reserved[2];
};

struct SamplingArgs {
  const float* logits;           // [batch, vocab_size]
  const SamplingRequest* params;  // [batch]
  int* token;                    // [batch] out
  int* position;                 // [batch] += 1
  int* kv_len;                   // [batch] += 1
  int* log;                      // [batch, log_capacity]: log[b][position] = token
  void* workspace;
  int log_capacity;
};

}  // namespace quern
