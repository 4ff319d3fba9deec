#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quern::dsl {

/// Collects the errors of one file. Every place is given as the piece of `text()` that it is about.
class Diagnostics {
 public:
  /// Keeps its own copy of the text: everything that is parsed must point into text().
  Diagnostics(std::string_view text, std::string_view file_name);
  ~Diagnostics();
  std::string_view text() const;

  void error(std::string_view at, const std::string& sentence);
  void note(std::string_view at, const std::string& sentence);
  bool failed() const;
  /// True once so many errors were reported that more would not help anybody.
  bool full() const;
  /// Throws CompileError: the first error as sentence, all of them, rendered, as log.
  [[noreturn]] void fail() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Of `candidates`, the one that `name` was probably meant to be; empty if none is close.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace quern::dsl
