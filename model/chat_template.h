#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/tokenizer.h"

namespace quern {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

/// Ids of a conversation in the Llama-3 chat layout (Llama 3 model card, "Prompt format"), ending
/// where the assistant is to answer: a BOS; for each message a header with the role and the
/// content, stripped of white space around it, up to an end-of-turn token; then the assistant's
/// header. Roles and contents cannot smuggle in special tokens: those are taken literally. Throws
/// InputError if the tokenizer lacks the layout's tokens, for an unknown role, or without any
/// message.
std::vector<std::int32_t> encode_chat(const Tokenizer& tokenizer,
                                      std::span<const ChatMessage> messages);

}  // namespace quern
