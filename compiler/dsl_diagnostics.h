#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quern::dsl {

/// Collects the errors of one file and of those that it uses. Every place is given as the piece of
/// a text that it is about.
class Diagnostics {
 public:
  Diagnostics();
  ~Diagnostics();
  /// Keeps its own copy of the text and gives it out: everything that is parsed must point into it.
  std::string_view add_file(std::string_view text, std::string_view file_name);

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
