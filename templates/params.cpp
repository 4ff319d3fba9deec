#include "templates/params.h"

namespace quern {

std::string to_text(const Params& params) {
  std::string out;
  for (const auto& [key, value] : params.items())
    out += fmt::format("{}{}={}", out.empty() ? "" : " ", key,
                       value.is_string() ? value.get<std::string>() : value.dump());
  return out;
}

std::string to_key(const Params& params) { return json(params).dump(); }

std::string config_struct(const Params& params, const std::string& name) {
  std::string out = fmt::format("struct {} {{\n", name);
  for (const auto& [key, value] : params.items()) {
    if (value.is_boolean())
      out += fmt::format("  static constexpr bool {} = {};\n", key, value.get<bool>());
    else if (value.is_number_integer())
      out += fmt::format("  static constexpr int {} = {};\n", key, value.get<int>());
  }
  return out + "};\n";
}

}  // namespace quern
