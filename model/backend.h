#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model/config.h"
#include "model/sampling.h"

namespace quern {

struct GenerateOptions {
  SamplingParams sampling;
  std::int64_t max_new_tokens = 128;
  /// A generation ends with the first of these; ModelConfig::stop_token_ids are the model's own.
  std::vector<std::int32_t> stop_ids{};
  /// Called before every step but the first, on a GPU with a step under way at most.
  std::function<void()> between_steps{};
};

enum class FinishReason {
  stop,       // a stop id came
  length,     // max_new_tokens, or the context is full
  cancelled,  // the callback said so
};

struct Generation {
  std::vector<std::int32_t> ids;  // every token generated, the stop id included
  FinishReason finish_reason = FinishReason::length;
  double prompt_seconds = 0;  // until the first token was there
  double decode_seconds = 0;  // for all tokens after the first
};

/// Which rows of logits forward() is to return.
enum class LogitRows { last, all };

/// A loaded model on a device, holding the state of one sequence. Not for use from several threads
/// at once.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const ModelConfig& config() const = 0;
  /// Tokens that a sequence may hold.
  virtual std::int64_t max_context() const = 0;
  /// Tokens that the sequence holds now.
  virtual std::int64_t context_length() const = 0;
  /// Forgets the sequence.
  virtual void reset() = 0;

  /// Appends tokens to the sequence and returns logits, f32, row-major: [1, vocab_size] for the
  /// last token or [tokens.size(), vocab_size]. Throws InputError if there are no tokens, for ids
  /// outside of the vocabulary, and if the sequence would outgrow the context; it is then
  /// unchanged.
  virtual std::vector<float> forward(std::span<const std::int32_t> tokens, LogitRows rows) = 0;

  /// Appends the prompt to the sequence and continues it. `on_token` sees each token as soon as it
  /// is known and returns false to end the generation; it may be empty. Afterwards the sequence
  /// holds the prompt and all generated tokens but the last. Throws InputError as forward() does,
  /// and for sampling options without meaning.
  virtual Generation generate(std::span<const std::int32_t> prompt, const GenerateOptions& options,
                              const std::function<bool(std::int32_t)>& on_token) = 0;

 protected:
  /// Throws the InputErrors that forward() promises.
  void check_tokens(std::span<const std::int32_t> tokens) const;
};

}  // namespace quern
