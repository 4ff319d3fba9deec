#pragma once
#include <string_view>
#include <vector>

#include "compiler/dsl_diagnostics.h"

namespace quern::dsl {

struct Token {
  enum class Kind { end, name, number, text, symbol };  // text: between quotes
  Kind kind = Kind::end;
  std::string_view text;  // a piece of the file
  double number = 0;

  bool is(std::string_view wanted) const { return kind != Kind::end && text == wanted; }
};

/// Splits a file (a text of `diagnostics`) into tokens; the last is Kind::end. Characters that fit
/// nowhere are reported and skipped.
std::vector<Token> tokenize(Diagnostics& diagnostics, std::string_view text);

}  // namespace quern::dsl
