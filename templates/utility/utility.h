#pragma once
#include <memory>

#include "templates/family.h"

namespace quern {

/// "fill": random contents for `count` elements, normal values of floating-point types and bits of
/// i32 (utility/fill.cuh).
struct FillProblem {
  std::int64_t count = 0;
  DType dtype = DType::bf16;
  double stddev = 1;
  std::int64_t seed = 0;
  static constexpr auto fields() {
    using P = FillProblem;
    return std::tuple{std::pair{"count", &P::count}, std::pair{"dtype", &P::dtype},
                      std::pair{"stddev", &P::stddev}, std::pair{"seed", &P::seed}};
  }
};

/// "stream": reads `words` 16-byte words (utility/stream.cuh).
struct StreamProblem {
  std::int64_t words = 0;
  static constexpr auto fields() {
    using P = StreamProblem;
    return std::make_tuple(std::pair{"words", &P::words});  // tuple{pair} would unpack it
  }
};

std::unique_ptr<Family> make_fill_family();
std::unique_ptr<Family> make_stream_family();

}  // namespace quern
