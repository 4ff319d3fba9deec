#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <set>
#include <string>
#include <string_view>

#include "runtime/base/dtype.h"

namespace quern::dsl {

/// A piece of C++ and how tightly it binds.
struct Code {
  enum Level { ternary, either, both, equality, comparison, sum, product, unary, primary };
  std::string text;
  Level level = primary;

  std::string at_least(Level wanted) const { return level >= wanted ? text : "(" + text + ")"; }
};

/// "0.5f"; infinities as their bits.
std::string literal(float value);
std::string literal(std::int32_t value);

/// The C++ type that holds one element. i4 has one only in registers.
std::string type_name(DType dtype);

/// True if the text has the name as a word of its own, and not as a member.
bool mentions(std::string_view text, std::string_view name);

/// A member of Args: the user's name, or with an underscore if C++ cannot have it.
std::string member_name(const std::string& name);

/// Gives out names that clash with nothing.
class Names {
 public:
  std::string take(const std::string& wanted);

 private:
  std::set<std::string> taken_;
};

/// Indented lines.
class Text {
 public:
  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    put(fmt::format(format, std::forward<Args>(args)...));
  }
  void put(const std::string& text);
  /// A line that starts at the margin: preprocessor directives.
  void at_margin(const std::string& text) { text_ += text + "\n"; }
  /// "text {"
  void open(const std::string& text = {});
  void close(const std::string& end = "}");
  /// "} else {"
  void otherwise();

  const std::string& str() const { return text_; }
  std::size_t mark() const { return text_.size(); }
  std::string_view since(std::size_t mark) const { return std::string_view(text_).substr(mark); }
  /// A line at an earlier mark, with the indentation of now.
  void insert(std::size_t mark, const std::string& text);

 private:
  std::string text_;
  int indent_ = 0;
};

}  // namespace quern::dsl
