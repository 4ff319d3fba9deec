#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/tokenizer_bpe.h"
#include "runtime/base/json.h"

namespace quern {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>{}(text);
  }
};

/// What a tokenizer.json says, in the form that encoding and decoding need.
struct TokenizerSpec {
  /// Byte-level BPE (GPT-2, Llama 3) starts from bytes. SentencePiece-style BPE (Llama 2, Mistral)
  /// starts from characters, writes spaces as U+2581 and falls back to byte tokens.
  enum class Kind { byte_level, sentence_piece };
  /// Whether U+2581 is put before a stretch of text that has no added token in it.
  enum class Prepend { never, first, always };
  struct AddedToken {
    std::int32_t id;
    std::string content;
    bool special;
  };

  Kind kind = Kind::byte_level;
  std::vector<std::string> token_bytes;  // by id: the bytes that the token decodes to
  std::vector<bool> is_special;          // by id
  /// Byte level: bytes of a token to its id. SentencePiece: the vocabulary's own spelling.
  std::unordered_map<std::string, std::int32_t, StringHash, std::equal_to<>> ids;
  BpeMerges merges;
  bool ignore_merges = false;  // a piece that is a token as it stands is not taken apart
  std::vector<AddedToken> added_tokens;
  std::vector<std::int32_t> prefix_ids, suffix_ids;  // of the post-processor's template

  std::vector<std::string> split_patterns;  // byte level: applied one after the other

  Prepend prepend = Prepend::never;
  bool prepend_only_if_absent = false;
  std::array<std::int32_t, 256> byte_ids{};  // -1 where there is no such token
  std::optional<std::int32_t> unknown_id;
  bool fuse_unknown = false;
  bool strip_leading_space = false;  // by the decoder, at the start of a text
};

/// U+2581, which stands for a space in SentencePiece vocabularies.
inline constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

/// Throws InputError, naming the part, for whatever is malformed or not supported.
TokenizerSpec parse_tokenizer(const json& file, const std::string& where);

}  // namespace quern
