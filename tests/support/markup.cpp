#include "tests/support/markup.h"

#include <fmt/format.h>

#include <regex>
#include <set>
#include <vector>

namespace quern::test {
namespace {

const std::regex kEntity("&(amp|lt|gt|quot|#39);");
const std::regex kAttribute(R"re(^\s+([A-Za-z][A-Za-z0-9_:-]*)="([^"<>]*)")re");

std::string text_problem(const std::string& text) {
  for (std::size_t at = text.find('&'); at != text.npos; at = text.find('&', at + 1))
    if (!std::regex_search(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), kEntity,
                           std::regex_constants::match_continuous))
      return fmt::format("a bare & in '{}'", text.substr(at, 20));
  if (text.find('>') != text.npos) return fmt::format("a bare > in '{}'", text.substr(0, 40));
  for (const char c : text)
    if (c >= 0 && c < 0x20 && c != '\n' && c != '\t') return "a control character";
  return {};
}

}  // namespace

std::string markup_problem(std::string_view page) {
  std::vector<std::string> open;
  std::set<std::string> ids;
  constexpr std::string_view kDoctype = "<!DOCTYPE html>\n";
  if (page.starts_with(kDoctype)) page.remove_prefix(kDoctype.size());
  while (!page.empty()) {
    const std::size_t tag = page.find('<');
    const bool in_style = !open.empty() && open.back() == "style";
    if (!in_style)
      if (auto problem = text_problem(std::string(page.substr(0, tag))); !problem.empty())
        return problem;
    if (tag == page.npos) break;
    page.remove_prefix(tag + 1);
    const std::size_t end = page.find('>');
    if (end == page.npos) return "a tag without an end";
    std::string inside(page.substr(0, end));
    page.remove_prefix(end + 1);
    if (inside.starts_with("/")) {
      if (open.empty() || open.back() != inside.substr(1))
        return fmt::format("</{}> closes {}", inside.substr(1),
                           open.empty() ? "nothing" : open.back());
      open.pop_back();
      continue;
    }
    const bool closed = inside.ends_with("/");
    if (closed) inside.pop_back();
    const std::string name = inside.substr(0, inside.find_first_of(" \n"));
    if (name.empty()) return "a tag without a name";
    std::string rest = inside.substr(name.size());
    std::set<std::string> seen;
    for (std::smatch match; std::regex_search(rest, match, kAttribute);
         rest = match.suffix().str()) {
      if (!seen.insert(match[1]).second)
        return fmt::format("{} has {} twice", name, match[1].str());
      if (auto problem = text_problem(match[2]); !problem.empty()) return problem;
      if (match[1] == "id" && !ids.insert(match[2]).second)
        return fmt::format("the id {} twice", match[2].str());
    }
    if (!rest.empty()) return fmt::format("<{}{}> has a malformed attribute", name, rest);
    if (!closed) open.push_back(name);
  }
  if (!open.empty()) return fmt::format("<{}> is not closed", open.back());
  return {};
}

}  // namespace quern::test
