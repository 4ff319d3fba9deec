#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/json.h"

namespace quern {

struct EncodeOptions {
  /// Put the tokens of the post-processor's template around the text: for Llama, a BOS before it.
  bool add_bos = true;
  /// Recognise special tokens that are spelled out in the text. Off for text that is not trusted.
  bool parse_special = true;
};

/// The tokenizer of a Hugging Face tokenizer.json: byte-level BPE (Llama 3) or SentencePiece-style
/// BPE (Llama 2, Mistral). Immutable; may be used from several threads at once.
class Tokenizer {
 public:
  /// A tokenizer.json, or a folder that has one. Throws InputError, one sentence, for whatever is
  /// malformed or uses a part of the format that Llama models do not use.
  explicit Tokenizer(const std::filesystem::path& path);
  Tokenizer(const json& file, const std::string& where);

  /// One more than the largest id.
  std::int32_t vocab_size() const;
  /// Ids of `text`. Ill-formed UTF-8 counts as U+FFFD.
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options = {}) const;
  /// Text of a whole sequence, special tokens left out. Bytes that are not UTF-8 become U+FFFD; ids
  /// that the tokenizer does not know are left out, since a model's vocabulary may be padded.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// The bytes that a token stands for; empty for unknown ids. They may be part of a character.
  std::string_view token_bytes(std::int32_t id) const;
  bool is_special(std::int32_t id) const;
  /// Id of an added token, such as "<|eot_id|>".
  std::optional<std::int32_t> added_token_id(std::string_view content) const;
  /// The token that the post-processor puts first, if it does.
  std::optional<std::int32_t> bos_id() const;
  /// True if decoding drops the space before the first word (SentencePiece).
  bool strips_leading_space() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Turns tokens into text as they come, never giving out part of a character.
class StreamDecoder {
 public:
  /// `at_start`: the first token begins a text, rather than continuing a prompt; matters for
  /// tokenizers that drop the space before the first word. The tokenizer must outlive the decoder.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool at_start = false)
      : tokenizer_(tokenizer), at_start_(at_start) {}

  /// The text that this token completes; may be empty.
  std::string push(std::int32_t id);
  /// What is left over at the end: U+FFFD for a character that was never completed.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool at_start_;
  std::string pending_;
};

}  // namespace quern
