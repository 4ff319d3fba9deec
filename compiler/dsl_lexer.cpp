#include "compiler/dsl_lexer.h"

#include <fmt/format.h>

#include <charconv>
#include <cstddef>
#include <limits>

namespace quern::dsl {
namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

constexpr std::string_view kPairs[] = {"->", "<=", ">=", "==", "!=", "&&", "||"};
constexpr std::string_view kSingles = "()[]{},;:=+-*/%<>!";

class Lexer {
 public:
  Lexer(Diagnostics& diagnostics, std::string_view text) : diagnostics_(diagnostics), text_(text) {}

  std::vector<Token> run() {
    while (skip_blank(), at_ < text_.size() && !diagnostics_.full()) next();
    tokens_.push_back({Token::Kind::end, text_.substr(text_.size()), 0});
    return std::move(tokens_);
  }

 private:
  char peek(std::size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  void skip_blank() {
    while (at_ < text_.size()) {
      if (is_space(peek())) {
        ++at_;
      } else if (peek() == '#' || (peek() == '/' && peek(1) == '/')) {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else {
        return;
      }
    }
  }

  void add(Token::Kind kind, std::size_t begin, double number = 0) {
    tokens_.push_back({kind, text_.substr(begin, at_ - begin), number});
  }

  void next() {
    const std::size_t begin = at_;
    if (is_letter(peek())) {
      while (is_letter(peek()) || is_digit(peek()) || peek() == '_') ++at_;
      return add(Token::Kind::name, begin);
    }
    if (is_digit(peek()) || (peek() == '.' && is_digit(peek(1)))) return number();
    if (peek() == '"') return quoted();
    for (const std::string_view pair : kPairs)
      if (text_.substr(at_, 2) == pair) {
        at_ += 2;
        return add(Token::Kind::symbol, begin);
      }
    ++at_;
    if (kSingles.find(text_[begin]) != std::string_view::npos)
      return add(Token::Kind::symbol, begin);
    // One report for a whole run of strange bytes: a binary file should not give one each.
    while (at_ < text_.size() && (text_[at_] < ' ' || text_[at_] > '~') && !is_space(text_[at_]))
      ++at_;
    const char c = text_[begin];
    diagnostics_.error(text_.substr(begin, at_ - begin),
                       c > ' ' && c <= '~' ? fmt::format("'{}' has no meaning here", c)
                                           : "only ASCII text has a meaning outside comments");
  }

  void quoted() {
    const std::size_t begin = at_++;
    while (at_ < text_.size() && peek() != '"' && peek() != '\n') ++at_;
    if (peek() != '"') {
      diagnostics_.error(text_.substr(begin, at_ - begin), "this text has no closing quote");
      return;
    }
    ++at_;
    tokens_.push_back({Token::Kind::text, text_.substr(begin, at_ - begin), 0});
  }

  void number() {
    const std::size_t begin = at_;
    while (is_digit(peek())) ++at_;
    if (peek() == '.') {
      ++at_;
      while (is_digit(peek())) ++at_;
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      while (is_digit(peek())) ++at_;
    }
    while (is_letter(peek()) || is_digit(peek()) || peek() == '_' || peek() == '.') ++at_;
    const std::string_view piece = text_.substr(begin, at_ - begin);
    double value = 0;
    const auto [end, status] = std::from_chars(piece.data(), piece.data() + piece.size(), value);
    constexpr double limit = std::numeric_limits<float>::max();
    if (end != piece.data() + piece.size()) {
      diagnostics_.error(piece, "this is not a number");
      value = 0;
    } else if (status == std::errc::result_out_of_range || value > limit) {
      diagnostics_.error(piece, "this number is outside the range of f32");
      value = 0;
    }
    add(Token::Kind::number, begin, value);
  }

  Diagnostics& diagnostics_;
  std::string_view text_;
  std::size_t at_ = 0;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(Diagnostics& diagnostics, std::string_view text) {
  return Lexer(diagnostics, text).run();
}

}  // namespace quern::dsl
