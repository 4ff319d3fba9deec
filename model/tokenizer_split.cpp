#include "model/tokenizer_split.h"

#include <fmt/format.h>

#include <cstddef>

#include "model/utf8.h"
#include "runtime/base/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace quern {
namespace {

template <class T, void (*release)(T*)>
struct Release {
  void operator()(T* handle) const { release(handle); }
};
template <class T, void (*release)(T*)>
using Handle = std::unique_ptr<T, Release<T, release>>;

using Code = Handle<pcre2_code, pcre2_code_free>;
using MatchData = Handle<pcre2_match_data, pcre2_match_data_free>;
using MatchContext = Handle<pcre2_match_context, pcre2_match_context_free>;
using JitStack = Handle<pcre2_jit_stack, pcre2_jit_stack_free>;

// Patterns of real tokenizers backtrack little; the JIT's built-in stack of 32 KiB is a near miss
// on long runs, so ours may grow.
constexpr std::size_t kJitStackStart = 32 << 10, kJitStackLimit = 16 << 20;

}  // namespace

struct SplitPattern::Impl {
  Code code;
  std::string where;
  bool jit = false;
};

SplitPattern::SplitPattern(const std::string& pattern, const std::string& where)
    : impl_(std::make_unique<Impl>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->where = where;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
  if (!impl_->code) {
    std::string message(256, '\0');
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message.data()), message.size());
    throw InputError(fmt::format("the split pattern in {} is not valid at byte {}: {}", where,
                                 offset, message.c_str()));
  }
  impl_->jit = pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE) == 0;
}

SplitPattern::~SplitPattern() = default;
SplitPattern::SplitPattern(SplitPattern&&) noexcept = default;
SplitPattern& SplitPattern::operator=(SplitPattern&&) noexcept = default;

void SplitPattern::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  const MatchData match(pcre2_match_data_create_from_pattern(impl_->code.get(), nullptr));
  const MatchContext context(pcre2_match_context_create(nullptr));
  const JitStack stack(impl_->jit ? pcre2_jit_stack_create(kJitStackStart, kJitStackLimit, nullptr)
                                  : nullptr);
  if (!match || !context) throw std::bad_alloc();
  if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());

  std::size_t unclaimed = 0;  // start of the stretch that no match has claimed
  std::size_t from = 0;
  while (from < text.size()) {
    const int found =
        pcre2_match(impl_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                    PCRE2_NO_UTF_CHECK, match.get(), context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    if (found < 0)
      throw InputError(
          fmt::format("the split pattern in {} needs too many steps on this text", impl_->where));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match.get());
    const std::size_t begin = span[0], end = span[1];
    if (begin >= end) {  // empty, or moved back by \K: step over one character
      from = std::max(from, begin);
      if (from < text.size()) from += next_utf8(text.substr(from)).bytes;
      continue;
    }
    if (begin > unclaimed) pieces.push_back(text.substr(unclaimed, begin - unclaimed));
    pieces.push_back(text.substr(begin, end - begin));
    unclaimed = from = end;
  }
  if (unclaimed < text.size()) pieces.push_back(text.substr(unclaimed));
}

}  // namespace quern
