#pragma once
#include <string>
#include <vector>

#include "compiler/nvrtc.h"

namespace quern {

/// Names of the headers that `source` reaches through #include, in order of first inclusion, depth
/// first. Conditional compilation is not evaluated, so the list may hold a header too many, never
/// one too few; names that `headers` lacks are left for the compiler to complain about.
std::vector<std::string> include_closure(const std::string& source, const HeaderMap& headers);

}  // namespace quern
