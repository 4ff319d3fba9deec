#pragma once
#include <optional>
#include <string>
#include <string_view>

/// RFC 4648, section 4: the standard alphabet, padded. Private to cache/.
namespace quern::cache {

std::string encode_base64(std::string_view bytes);
/// Nothing for text that encode_base64() cannot have written.
std::optional<std::string> decode_base64(std::string_view text);

}  // namespace quern::cache
