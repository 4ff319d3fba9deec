#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace quern {

/// What stands at the front of a byte string.
struct Utf8Unit {
  enum class Kind { character, invalid, incomplete };
  Kind kind = Kind::character;
  /// Bytes of the character; or of the maximal ill-formed part (Unicode 15, section 3.9, U+FFFD
  /// substitution of maximal subparts); or of a start that further bytes may complete.
  std::size_t bytes = 1;
};

/// Looks at the front of `text`, which must not be empty.
Utf8Unit next_utf8(std::string_view text);

/// `text` with every ill-formed part replaced by U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

/// Appends the character's UTF-8 form. `code_point` must be a Unicode scalar value.
void append_utf8(std::string& out, char32_t code_point);

/// `text` without the ASCII white space around it.
std::string_view trim(std::string_view text);

}  // namespace quern
