#include "model/backend.h"

#include <fmt/format.h>

#include "runtime/base/error.h"

namespace quern {

void Backend::check_tokens(std::span<const std::int32_t> tokens) const {
  if (tokens.empty()) throw InputError("the prompt is empty");
  for (const std::int32_t id : tokens)
    if (id < 0 || id >= config().vocab_size)
      throw InputError(fmt::format("token id {} is outside of the model's vocabulary of {}", id,
                                   config().vocab_size));
  const std::int64_t left = max_context() - context_length();
  if (static_cast<std::int64_t>(tokens.size()) > left)
    throw InputError(fmt::format(
        "{} tokens do not fit into the context, which has room for {} more", tokens.size(), left));
}

}  // namespace quern
