#include "model/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "model/json_reader.h"
#include "model/tokenizer_spec.h"
#include "model/tokenizer_split.h"
#include "model/utf8.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

std::filesystem::path tokenizer_path(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored) ? path / "tokenizer.json" : path;
}

}  // namespace

struct Tokenizer::Impl {
  Impl(const json& file, const std::string& where) : spec(parse_tokenizer(file, where)) {
    for (const std::string& pattern : spec.split_patterns) splits.emplace_back(pattern, where);
    // Longest first, so that the first hit at a position is the longest.
    std::ranges::stable_sort(spec.added_tokens, std::ranges::greater{},
                             [](const auto& token) { return token.content.size(); });
    for (std::size_t i = 0; i < spec.added_tokens.size(); ++i)
      added_by_first_byte[static_cast<unsigned char>(spec.added_tokens[i].content[0])].push_back(i);
  }

  const TokenizerSpec::AddedToken* added_token_at(std::string_view text, bool parse_special) const {
    for (const std::size_t i : added_by_first_byte[static_cast<unsigned char>(text[0])]) {
      const auto& token = spec.added_tokens[i];
      if (text.starts_with(token.content) && (parse_special || !token.special)) return &token;
    }
    return nullptr;
  }

  /// Text without added tokens. `is_first`: nothing stands before it.
  void encode_stretch(std::string_view text, bool is_first, std::vector<std::int32_t>& out) const {
    if (text.empty()) return;
    if (spec.kind == TokenizerSpec::Kind::byte_level)
      encode_byte_level(text, out);
    else
      encode_sentence_piece(text, is_first, out);
  }

  void encode_byte_level(std::string_view text, std::vector<std::int32_t>& out) const {
    std::vector<std::string_view> pieces{text}, finer;
    for (const SplitPattern& split : splits) {
      finer.clear();
      for (const std::string_view piece : pieces) split.split(piece, finer);
      std::swap(pieces, finer);
    }
    std::vector<std::int32_t> symbols;
    for (const std::string_view piece : pieces) {
      if (spec.ignore_merges) {
        if (const auto found = spec.ids.find(piece); found != spec.ids.end()) {
          out.push_back(found->second);
          continue;
        }
      }
      symbols.clear();
      for (std::size_t i = 0; i < piece.size(); ++i)
        symbols.push_back(spec.ids.find(piece.substr(i, 1))->second);
      spec.merges.apply(symbols);
      out.insert(out.end(), symbols.begin(), symbols.end());
    }
  }

  void encode_sentence_piece(std::string_view text, bool is_first,
                             std::vector<std::int32_t>& out) const {
    using enum TokenizerSpec::Prepend;
    const bool has_mark = text.front() == ' ' || text.starts_with(kSpaceMark);
    std::string marked;
    if ((spec.prepend == always || (spec.prepend == first && is_first)) &&
        !(spec.prepend_only_if_absent && has_mark))
      marked += kSpaceMark;
    for (const char c : text)
      if (c == ' ')
        marked += kSpaceMark;
      else
        marked += c;
    if (spec.ignore_merges) {
      if (const auto found = spec.ids.find(marked); found != spec.ids.end())
        return out.push_back(found->second);
    }
    std::vector<std::int32_t> symbols;
    bool after_unknown = false;
    for (std::string_view rest = marked; !rest.empty();) {
      const std::string_view character = rest.substr(0, next_utf8(rest).bytes);
      rest.remove_prefix(character.size());
      const bool known = append_character(character, symbols);
      if (!known && spec.unknown_id && !(after_unknown && spec.fuse_unknown))
        symbols.push_back(*spec.unknown_id);
      after_unknown = !known;
    }
    spec.merges.apply(symbols);
    out.insert(out.end(), symbols.begin(), symbols.end());
  }

  /// The character's token, else those of its bytes; false if the vocabulary has neither.
  bool append_character(std::string_view character, std::vector<std::int32_t>& symbols) const {
    if (const auto found = spec.ids.find(character); found != spec.ids.end()) {
      symbols.push_back(found->second);
      return true;
    }
    const auto byte_id = [&](char c) { return spec.byte_ids[static_cast<unsigned char>(c)]; };
    if (std::ranges::any_of(character, [&](char c) { return byte_id(c) < 0; })) return false;
    for (const char c : character) symbols.push_back(byte_id(c));
    return true;
  }

  TokenizerSpec spec;
  std::vector<SplitPattern> splits;
  std::array<std::vector<std::size_t>, 256> added_by_first_byte;
};

Tokenizer::Tokenizer(const std::filesystem::path& path)
    : Tokenizer(read_json_file(tokenizer_path(path)), tokenizer_path(path).string()) {}

Tokenizer::Tokenizer(const json& file, const std::string& where)
    : impl_(std::make_shared<const Impl>(file, where)) {}

std::int32_t Tokenizer::vocab_size() const {
  return static_cast<std::int32_t>(impl_->spec.token_bytes.size());
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view raw, EncodeOptions options) const {
  const std::string text = replace_invalid_utf8(raw);
  const TokenizerSpec& spec = impl_->spec;
  std::vector<std::int32_t> ids;
  if (options.add_bos) ids = spec.prefix_ids;
  std::string_view rest = text;
  std::size_t stretch = 0;  // bytes of `rest` that hold no added token
  bool is_first = true;
  while (stretch < rest.size()) {
    const auto* token = impl_->added_token_at(rest.substr(stretch), options.parse_special);
    if (!token) {
      ++stretch;
      continue;
    }
    impl_->encode_stretch(rest.substr(0, stretch), is_first, ids);
    ids.push_back(token->id);
    rest.remove_prefix(stretch + token->content.size());
    stretch = 0;
    is_first = false;
  }
  impl_->encode_stretch(rest, is_first, ids);
  if (options.add_bos) ids.insert(ids.end(), spec.suffix_ids.begin(), spec.suffix_ids.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  StreamDecoder decoder(*this, /*at_start=*/true);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  return text += decoder.finish();
}

std::string_view Tokenizer::token_bytes(std::int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return impl_->spec.token_bytes[static_cast<std::size_t>(id)];
}

bool Tokenizer::is_special(std::int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->spec.is_special[static_cast<std::size_t>(id)];
}

std::optional<std::int32_t> Tokenizer::added_token_id(std::string_view content) const {
  for (const auto& token : impl_->spec.added_tokens)
    if (token.content == content) return token.id;
  return std::nullopt;
}

std::optional<std::int32_t> Tokenizer::bos_id() const {
  if (impl_->spec.prefix_ids.empty()) return std::nullopt;
  return impl_->spec.prefix_ids.front();
}

bool Tokenizer::strips_leading_space() const { return impl_->spec.strip_leading_space; }

std::string StreamDecoder::push(std::int32_t id) {
  if (tokenizer_.is_special(id)) return {};
  std::string_view bytes = tokenizer_.token_bytes(id);
  if (at_start_ && !bytes.empty()) {
    if (tokenizer_.strips_leading_space() && bytes.front() == ' ') bytes.remove_prefix(1);
    at_start_ = false;
  }
  pending_ += bytes;
  std::size_t complete = 0;
  while (complete < pending_.size()) {
    const Utf8Unit unit = next_utf8(std::string_view(pending_).substr(complete));
    if (unit.kind == Utf8Unit::Kind::incomplete) break;
    complete += unit.bytes;
  }
  std::string text = replace_invalid_utf8(std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return text;
}

std::string StreamDecoder::finish() { return replace_invalid_utf8(std::exchange(pending_, {})); }

}  // namespace quern
