#include "model/tokenizer_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "model/json_reader.h"
#include "model/utf8.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

// The pattern that a ByteLevel pre-tokenizer with "use_regex" stands for: GPT-2's.
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

[[noreturn]] void refuse(const std::string& where, std::string_view what) {
  throw InputError(fmt::format("{} uses {}, which is not supported", where, what));
}

/// GPT-2's printable stand-in for each byte: itself where it is a visible Latin-1 character, else
/// the next code point from U+0100.
std::unordered_map<std::string, char, StringHash, std::equal_to<>> byte_alphabet() {
  std::unordered_map<std::string, char, StringHash, std::equal_to<>> alphabet;
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    std::string spelling;
    append_utf8(spelling, visible ? static_cast<char32_t>(byte) : next++);
    alphabet.emplace(spelling, static_cast<char>(static_cast<unsigned char>(byte)));
  }
  return alphabet;
}

/// Applies `visit` to a component, or to each member of a Sequence of them.
template <class Visit>
void for_each_component(const JsonReader& file, const char* key, const char* members,
                        const Visit& visit) {
  if (!file.has(key)) return;
  const JsonReader component = file.object(key);
  if (component.text("type") != "Sequence") return visit(component);
  for (const json& member : component.array(members))
    visit(JsonReader(member, fmt::format("\"{}\" in {}", members, component.where())));
}

void parse_pre_tokenizer(const JsonReader& file, TokenizerSpec& spec) {
  bool byte_level = false;
  for_each_component(file, "pre_tokenizer", "pretokenizers", [&](const JsonReader& part) {
    const std::string type = part.text("type");
    if (type == "Split") {
      const JsonReader pattern = part.object("pattern");
      if (part.text("behavior") != "Isolated" || part.boolean_or("invert", false) ||
          !pattern.has("Regex"))
        refuse(part.where(), "a split other than an isolating regular expression");
      spec.split_patterns.push_back(pattern.text("Regex"));
    } else if (type == "ByteLevel") {
      byte_level = true;
      if (part.boolean_or("add_prefix_space", true)) refuse(part.where(), "\"add_prefix_space\"");
      if (part.boolean_or("use_regex", true)) spec.split_patterns.push_back(kGpt2Pattern);
    } else if (type == "Metaspace") {
      if (part.text("replacement") != kSpaceMark || part.boolean_or("split", true))
        refuse(part.where(), "a splitting Metaspace");
      const std::string scheme = part.optional_text("prepend_scheme").value_or("always");
      using enum TokenizerSpec::Prepend;
      spec.prepend = scheme == "first" ? first : scheme == "never" ? never : always;
      spec.prepend_only_if_absent = true;
    } else {
      refuse(part.where(), fmt::format("the pre-tokenizer {}", type));
    }
  });
  spec.kind = byte_level ? TokenizerSpec::Kind::byte_level : TokenizerSpec::Kind::sentence_piece;
  if (!byte_level && !spec.split_patterns.empty())
    refuse(file.where(), "a split without ByteLevel");
}

void parse_normalizer(const JsonReader& file, TokenizerSpec& spec) {
  for_each_component(file, "normalizer", "normalizers", [&](const JsonReader& part) {
    const std::string type = part.text("type");
    if (spec.kind == TokenizerSpec::Kind::sentence_piece && type == "Prepend" &&
        part.text("prepend") == kSpaceMark) {
      spec.prepend = TokenizerSpec::Prepend::always;
    } else if (spec.kind != TokenizerSpec::Kind::sentence_piece || type != "Replace" ||
               part.object("pattern").optional_text("String") != " " ||
               part.text("content") != kSpaceMark) {
      refuse(part.where(), fmt::format("the normalizer {}", type));
    }
  });
}

void parse_decoder(const JsonReader& file, TokenizerSpec& spec) {
  if (spec.kind == TokenizerSpec::Kind::byte_level) return;
  for_each_component(file, "decoder", "decoders", [&](const JsonReader& part) {
    const std::string type = part.text("type");
    if (type == "Strip") spec.strip_leading_space = part.integer("start", 0, 1) == 1;
    if (type == "Metaspace")
      spec.strip_leading_space = spec.prepend != TokenizerSpec::Prepend::never;
  });
}

/// "<0x0A>" to 10.
std::optional<unsigned> parse_byte_token(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (const char digit : text.substr(3, 2)) {
    if (digit >= '0' && digit <= '9')
      value = value * 16 + static_cast<unsigned>(digit - '0');
    else if (digit >= 'A' && digit <= 'F')
      value = value * 16 + static_cast<unsigned>(digit - 'A') + 10;
    else
      return std::nullopt;
  }
  return value;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t at; (at = text.find(from)) != std::string_view::npos;) {
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
  }
  return out += text;
}

class VocabularyReader {
 public:
  VocabularyReader(const JsonReader& file, TokenizerSpec& spec)
      : file_(file), model_(file.object("model")), spec_(spec) {}

  void read(const json& vocab, const json& added_tokens, const json& merges) {
    // Ids of real tokenizers are dense; the bound keeps a damaged one from sizing the table.
    max_id_ = static_cast<std::int64_t>(2 * (vocab.size() + added_tokens.size())) + 1024;
    spec_.byte_ids.fill(-1);
    for (const auto& [spelling, id] : vocab.items()) add_word(spelling, checked_id(id));
    for (const json& token : added_tokens)
      add_added_token(JsonReader(token, fmt::format("\"added_tokens\" in {}", file_.where())));
    for (const json& merge : merges) add_merge(merge);
  }

 private:
  std::int32_t checked_id(const json& id) const {
    const json one{{"id", id}};
    return static_cast<std::int32_t>(JsonReader(one, model_.where()).integer("id", 0, max_id_));
  }

  void set_bytes(std::int32_t id, std::string bytes) {
    const auto index = static_cast<std::size_t>(id);
    if (index >= spec_.token_bytes.size()) {
      spec_.token_bytes.resize(index + 1);
      spec_.is_special.resize(index + 1);
    }
    spec_.token_bytes[index] = std::move(bytes);
  }

  void add_word(const std::string& spelling, std::int32_t id) {
    ids_by_spelling_.emplace(spelling, id);
    if (spec_.kind == TokenizerSpec::Kind::byte_level) {
      const auto bytes = to_bytes(spelling);
      set_bytes(id, bytes.value_or(spelling));
      if (bytes) spec_.ids.emplace(*bytes, id);
      return;
    }
    spec_.ids.emplace(spelling, id);
    if (const auto byte = parse_byte_token(spelling)) {
      spec_.byte_ids[*byte] = id;
      set_bytes(id, std::string(1, static_cast<char>(static_cast<unsigned char>(*byte))));
    } else {
      set_bytes(id, replace_all(spelling, kSpaceMark, " "));
    }
  }

  /// Spelling in the byte alphabet to bytes; nothing if it has characters from outside of it.
  std::optional<std::string> to_bytes(std::string_view spelling) const {
    std::string bytes;
    while (!spelling.empty()) {
      const std::size_t length = next_utf8(spelling).bytes;
      const auto found = alphabet_.find(spelling.substr(0, length));
      if (found == alphabet_.end()) return std::nullopt;
      bytes += found->second;
      spelling.remove_prefix(length);
    }
    return bytes;
  }

  void add_added_token(const JsonReader& token) {
    const auto id = static_cast<std::int32_t>(token.integer("id", 0, max_id_));
    const std::string content = token.text("content");
    const bool special = token.boolean_or("special", false);
    for (const char* key : {"single_word", "lstrip", "rstrip"})
      if (token.boolean_or(key, false)) refuse(token.where(), fmt::format("\"{}\"", key));
    if (content.empty()) throw InputError(fmt::format("{} has an empty token", token.where()));
    set_bytes(id, content);
    spec_.is_special[static_cast<std::size_t>(id)] = special;
    spec_.added_tokens.push_back({id, content, special});
  }

  /// "left right" or ["left", "right"].
  void add_merge(const json& merge) {
    std::string left, right;
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      left = merge[0].get<std::string>();
      right = merge[1].get<std::string>();
    } else if (merge.is_string()) {
      const auto text = merge.get<std::string>();
      const std::size_t space = text.find(' ');
      if (space == std::string::npos) bad_merge(text);
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else {
      bad_merge(merge.dump(-1, ' ', false, json::error_handler_t::replace));
    }
    spec_.merges.add(id_of(left), id_of(right), id_of(left + right));
  }

  [[noreturn]] void bad_merge(const std::string& merge) const {
    throw InputError(
        fmt::format("{} has the merge \"{}\", which is not a pair", model_.where(), merge));
  }

  std::int32_t id_of(const std::string& spelling) const {
    const auto found = ids_by_spelling_.find(spelling);
    if (found == ids_by_spelling_.end())
      throw InputError(fmt::format("{} merges \"{}\", which is not in its vocabulary",
                                   model_.where(), replace_invalid_utf8(spelling)));
    return found->second;
  }

  const JsonReader& file_;
  JsonReader model_;
  TokenizerSpec& spec_;
  std::int64_t max_id_ = 0;
  std::unordered_map<std::string, char, StringHash, std::equal_to<>> alphabet_ = byte_alphabet();
  std::unordered_map<std::string, std::int32_t> ids_by_spelling_;
};

/// Ids that a template puts before and after the text.
void parse_post_processor(const JsonReader& file, TokenizerSpec& spec) {
  for_each_component(file, "post_processor", "processors", [&](const JsonReader& part) {
    if (part.text("type") != "TemplateProcessing") return;
    const JsonReader tokens = part.object("special_tokens");
    bool before = true;
    for (const json& item : part.array("single")) {
      const JsonReader step(item, fmt::format("\"single\" in {}", part.where()));
      if (!step.has("SpecialToken")) {
        before = false;
        continue;
      }
      const std::string token = step.object("SpecialToken").text("id");
      for (const json& id : tokens.object(token.c_str()).array("ids")) {
        const json one{{"ids", id}};
        const auto value = static_cast<std::int32_t>(
            JsonReader(one, part.where())
                .integer("ids", 0, static_cast<std::int64_t>(spec.token_bytes.size()) - 1));
        (before ? spec.prefix_ids : spec.suffix_ids).push_back(value);
      }
    }
  });
}

void check_byte_coverage(const TokenizerSpec& spec, const std::string& where) {
  for (unsigned byte = 0; byte < 256; ++byte) {
    const std::string bytes(1, static_cast<char>(static_cast<unsigned char>(byte)));
    if (!spec.ids.contains(bytes))
      throw InputError(fmt::format("{} has no token for the byte {}", where, byte));
  }
}

}  // namespace

TokenizerSpec parse_tokenizer(const json& file_json, const std::string& where) {
  const JsonReader file(file_json, where);
  const JsonReader model = file.object("model");
  if (const std::string type = model.optional_text("type").value_or("BPE"); type != "BPE")
    refuse(model.where(), fmt::format("the model {}", type));
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model.optional_text(key).value_or("").empty())
      refuse(model.where(), fmt::format("\"{}\"", key));
  TokenizerSpec spec;
  spec.ignore_merges = model.boolean_or("ignore_merges", false);
  parse_pre_tokenizer(file, spec);
  parse_normalizer(file, spec);
  parse_decoder(file, spec);
  const JsonReader vocab = model.object("vocab");
  const json none = json::array();
  VocabularyReader(file, spec)
      .read(file_json["model"]["vocab"],
            file.has("added_tokens") ? file.array("added_tokens") : none, model.array("merges"));
  if (spec.token_bytes.empty()) throw InputError(fmt::format("{} is empty", vocab.where()));
  if (spec.kind == TokenizerSpec::Kind::byte_level) check_byte_coverage(spec, model.where());
  if (!model.boolean_or("byte_fallback", false)) spec.byte_ids.fill(-1);
  spec.fuse_unknown = model.boolean_or("fuse_unk", false);
  if (const auto unknown = model.optional_text("unk_token")) {
    const auto found = spec.ids.find(*unknown);
    if (found != spec.ids.end()) spec.unknown_id = found->second;
  }
  parse_post_processor(file, spec);
  return spec;
}

}  // namespace quern
