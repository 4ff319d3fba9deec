#pragma once
#include <string>
#include <string_view>

namespace quern::test {

/// What keeps `page` from being well-formed, or nothing: tags that do not balance, attributes
/// without quotes or twice, a '<', '>' or '&' that should have been escaped, an id twice. Knows as
/// much of HTML and SVG as a page without scripts needs.
std::string markup_problem(std::string_view page);

}  // namespace quern::test
