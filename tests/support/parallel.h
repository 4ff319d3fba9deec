#pragma once
#include <cstddef>
#include <functional>
#include <string>

namespace quern::test {

/// Calls fault_of(i) for each i < count on several threads (doctest's assertions belong to one) and
/// fails the test case once for every answer that is not empty.
void check_in_parallel(std::size_t count, const std::function<std::string(std::size_t)>& fault_of);

}  // namespace quern::test
