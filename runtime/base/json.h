#pragma once
#include <nlohmann/json.hpp>

namespace quern {

using json = nlohmann::json;
/// Keeps insertion order: what people read is written in the order in which it was thought of.
using ordered_json = nlohmann::ordered_json;

}  // namespace quern
