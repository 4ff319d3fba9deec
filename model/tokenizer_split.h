#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// A pre-tokenizer's regular expression, compiled by PCRE2 with Unicode properties.
class SplitPattern {
 public:
  /// Throws InputError if the pattern is not valid; `where` names its file.
  SplitPattern(const std::string& pattern, const std::string& where);
  ~SplitPattern();
  SplitPattern(SplitPattern&&) noexcept;
  SplitPattern& operator=(SplitPattern&&) noexcept;

  /// Appends the matches and the stretches between them, in order ("Isolated" in tokenizer.json).
  /// `text` must be valid UTF-8. Throws InputError if the pattern needs too many steps on it. May
  /// be called from several threads at once.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern
