#pragma once
#include <string>
#include <string_view>

namespace quern {

/// `text` as it may stand between tags and inside quoted attributes of HTML and SVG. What is no
/// UTF-8 or may not occur in XML becomes U+FFFD.
std::string html_text(std::string_view text);

}  // namespace quern
