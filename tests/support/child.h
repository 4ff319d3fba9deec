#pragma once
#include <string>
#include <vector>

namespace quern::test {

/// First argument of a test executable that is to behave as a child process instead of testing.
constexpr const char* kAsChild = "--as-child";

/// Starts this executable as a child that behaves in the given way, one of those in child.cpp.
inline std::vector<std::string> child_command(const std::string& behaviour) {
  return {"/proc/self/exe", kAsChild, behaviour};
}

/// What the child does; returns its exit status.
int run_as_child(const std::string& behaviour);

}  // namespace quern::test
