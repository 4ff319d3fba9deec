#pragma once
#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "runtime/base/json.h"

namespace quern::cache {

/// Parses untrusted text in time and memory proportional to its length, keeping the order of keys.
/// Nothing for text that is not JSON. What lies deeper than 8 levels is dropped, and an object that
/// has a key twice or more than 256 keys becomes null: the caller's type checks then refuse it, and
/// two readers can never disagree about which of two values counts.
std::optional<ordered_json> parse_json(std::string_view text);

/// Told of one element of a list as soon as it is complete; false ends the parse.
using TakeElement = std::function<bool(std::string_view list, ordered_json element)>;

/// parse_json() of a document that may be long: an object whose `lists` are not kept, but handed on
/// element by element, so that memory is that of one element. An element of more than 4096 values
/// becomes null, and so does the result if there are more than 65536 besides the lists. Nothing if
/// the text is not JSON or `take` ended the parse. The whole text is seen only at the end: `take`
/// may have been told of elements of what then proves to be no document.
std::optional<ordered_json> parse_document(std::string_view text,
                                           std::span<const std::string_view> lists,
                                           const TakeElement& take);

}  // namespace quern::cache
