// The parameter of the embedding kernel (included by host and device code).
#pragma once

namespace quern {

struct EmbeddingArgs {
  const int* ids;     // [num_tokens]
  const void* table;  // [vocab_size, hidden_size]
  void* y;            // [num_tokens, hidden_size]
  int num_tokens;
};

}  // namespace quern
