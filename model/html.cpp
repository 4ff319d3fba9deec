#include "model/html.h"

#include "model/utf8.h"

namespace quern {

std::string html_text(std::string_view text) {
  const std::string valid = replace_invalid_utf8(text);
  std::string out;
  out.reserve(valid.size());
  for (const char c : valid) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else if ((c >= 0 && c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
      append_utf8(out, 0xfffd);
    else
      out += c;
  }
  return out;
}

}  // namespace quern
