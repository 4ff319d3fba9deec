#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "autotune/search.h"
#include "compiler/compiled.h"
#include "runtime/base/json.h"

/// What a RemoteBench and its process say to each other: CBOR objects, one a message. Private to
/// autotune/.
namespace quern::bench {

std::string pack(const ordered_json& message);
/// Throws Error if `text` is no CBOR object.
ordered_json unpack(std::string_view text);

ordered_json to_message(const Verdict& verdict);
Verdict verdict_from(const ordered_json& message);

ordered_json to_message(const CompiledKernel& image);
CompiledKernel image_from(const ordered_json& message);

}  // namespace quern::bench
