#pragma once
#include <string>
#include <string_view>

namespace quern {

/// 128-bit content hash (XXH3) as 32 lowercase hex digits. Names cache entries and checks them for
/// damage; it is not a defence against forgery.
std::string content_hash(std::string_view bytes);

}  // namespace quern
