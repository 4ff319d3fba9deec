#include <fmt/format.h>

#include <set>
#include <string_view>

#include "compiler/include_closure.h"
#include "compiler/nvrtc.h"
#include "runtime/base/hash.h"

namespace quern {
namespace {

constexpr std::string_view kBlank = " \t\r\v\f";

std::string_view skip_blanks(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(kBlank);
  return begin == std::string_view::npos ? std::string_view{} : text.substr(begin);
}

/// The name in `#include "name"` or `#include <name>`, or nothing.
std::string_view included_name(std::string_view line) {
  line = skip_blanks(line);
  if (!line.starts_with('#')) return {};
  line = skip_blanks(line.substr(1));
  constexpr std::string_view keyword = "include";
  if (!line.starts_with(keyword)) return {};
  line = skip_blanks(line.substr(keyword.size()));
  if (line.empty() || (line[0] != '"' && line[0] != '<')) return {};
  const std::size_t end = line.find(line[0] == '"' ? '"' : '>', 1);
  return end == std::string_view::npos ? std::string_view{} : line.substr(1, end - 1);
}

struct Walk {
  const HeaderMap& headers;
  std::vector<std::string> reached;
  std::set<std::string, std::less<>> seen;

  void visit(std::string_view text) {
    while (!text.empty()) {
      const std::size_t end = text.find('\n');
      const std::string_view name = included_name(text.substr(0, end));
      text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
      if (name.empty() || seen.contains(name)) continue;
      const auto header = headers.find(name);
      if (header == headers.end()) continue;
      seen.emplace(name);
      reached.push_back(header->first);
      visit(header->second);
    }
  }
};

/// Length first, so that no two lists of fields run together into the same bytes.
void append_field(std::string& bytes, std::string_view field) {
  bytes += fmt::format("{}:", field.size());
  bytes += field;
}

void append_headers(std::string& bytes, const std::string& source, const HeaderMap& headers) {
  for (const std::string& name : include_closure(source, headers)) {
    append_field(bytes, name);
    append_field(bytes, headers.find(name)->second);
  }
}

}  // namespace

std::vector<std::string> include_closure(const std::string& source, const HeaderMap& headers) {
  Walk walk{headers, {}, {}};
  walk.visit(source);
  return std::move(walk.reached);
}

std::string image_key(const CompileRequest& request, const HeaderMap& headers,
                      const std::string& nvrtc_version) {
  std::string bytes;
  append_field(bytes, nvrtc_version);
  append_field(bytes, request.arch.name());
  append_field(bytes, fmt::format("{}", request.options.size()));
  for (const std::string& option : request.options) append_field(bytes, option);
  append_field(bytes, request.entry);  // whose registers and spills the stored report tells
  append_field(bytes, request.source);
  append_headers(bytes, request.source, headers);
  return content_hash(bytes);
}

std::string header_closure_hash(const std::string& source, const HeaderMap& headers) {
  std::string bytes;
  append_headers(bytes, source, headers);
  return content_hash(bytes);
}

}  // namespace quern
