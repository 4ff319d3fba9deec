#include "runtime/base/fields.h"

#include <cstdint>
#include <cstring>

namespace quern {
namespace {

using Length = std::uint64_t;

}  // namespace

std::string pack_fields(std::span<const std::string_view> fields) {
  std::size_t size = 0;
  for (const std::string_view field : fields) size += sizeof(Length) + field.size();
  std::string message;
  message.reserve(size);
  for (const std::string_view field : fields) {
    const Length length = field.size();
    message.append(reinterpret_cast<const char*>(&length), sizeof length);
    message.append(field);
  }
  return message;
}

std::optional<std::vector<std::string>> unpack_fields(std::string_view message) {
  std::vector<std::string> fields;
  while (!message.empty()) {
    Length length = 0;
    if (message.size() < sizeof length) return std::nullopt;
    std::memcpy(&length, message.data(), sizeof length);
    message.remove_prefix(sizeof length);
    if (message.size() < length) return std::nullopt;
    fields.emplace_back(message.substr(0, length));
    message.remove_prefix(length);
  }
  return fields;
}

}  // namespace quern
