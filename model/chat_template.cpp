#include "model/chat_template.h"

#include <fmt/format.h>

#include <string_view>

#include "model/utf8.h"
#include "runtime/base/error.h"

namespace quern {
namespace {

std::int32_t required_token(const Tokenizer& tokenizer, std::string_view content) {
  if (const auto id = tokenizer.added_token_id(content)) return *id;
  throw InputError(
      fmt::format("this model has no Llama-3 chat format: its tokenizer lacks {}", content));
}

}  // namespace

std::vector<std::int32_t> encode_chat(const Tokenizer& tokenizer,
                                      std::span<const ChatMessage> messages) {
  const std::int32_t begin = required_token(tokenizer, "<|begin_of_text|>");
  const std::int32_t header_start = required_token(tokenizer, "<|start_header_id|>");
  const std::int32_t header_end = required_token(tokenizer, "<|end_header_id|>");
  const std::int32_t end_of_turn = required_token(tokenizer, "<|eot_id|>");
  if (messages.empty()) throw InputError("a conversation needs at least one message");
  std::vector<std::int32_t> ids{begin};
  const auto append_text = [&](std::string_view text) {
    const auto more = tokenizer.encode(text, {.add_bos = false, .parse_special = false});
    ids.insert(ids.end(), more.begin(), more.end());
  };
  const auto append_turn = [&](std::string_view role, std::string_view content) {
    ids.push_back(header_start);
    append_text(role);
    ids.push_back(header_end);
    // The blank line and the content are one stretch of text: tokens may span them.
    append_text(fmt::format("\n\n{}", content));
  };
  for (const ChatMessage& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant")
      throw InputError(fmt::format("there is no chat role \"{}\"", message.role));
    append_turn(message.role, trim(message.content));
    ids.push_back(end_of_turn);
  }
  append_turn("assistant", "");
  return ids;
}

}  // namespace quern
