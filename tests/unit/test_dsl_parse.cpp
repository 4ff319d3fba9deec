#include <fmt/format.h>

#include <random>

#include "compiler/dsl.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "templates/embedded.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

/// The rendered diagnostics of a text that does not compile.
std::string log_of(const std::string& text) {
  try {
    dsl::parse(text, "k.qk");
  } catch (const CompileError& error) {
    CHECK_EQ(error.exit_code(), kExitInput);
    return error.log();
  }
  return "(no error)";
}

/// The first diagnostic of a kernel with these operands and body.
std::string complaint(const std::string& body,
                      const std::string& params = "x: T[rows, cols], w: T[cols]; eps: f32",
                      const std::string& outputs = "y: T[rows, cols]") {
  const std::string text = "kernel k(" + params + ") -> (" + outputs + ") {\n" + body + "\n}\n";
  try {
    dsl::parse(text, "k.qk");
  } catch (const CompileError& error) {
    const std::string what = error.what();
    return what.substr(what.find(": ") + 2);
  }
  return "(no error)";
}

}  // namespace

TEST_CASE("a kernel's interface is what was declared") {
  const auto kernels = dsl::parse(R"(
    # two kernels  // in one file
    kernel first(g: T[rows, 2, cols], x: inout T[rows, cols], w: R[cols]; eps: f32, n: i32) {  // é
      x = T(f32(w) * eps + f32(n) + f32(g[0]) * f32(g[1]) * f32(x))
    }
    kernel second(w: bf16[n], a: f32[m, n]) -> (b: T[m, n]) { b = T(a * f32(w)) })",
                                  "k.qk");
  REQUIRE_EQ(kernels.size(), 2);
  const dsl::Kernel& first = kernels[0];
  CHECK_EQ(first.name(), "first");
  CHECK_EQ(first.axes(), std::vector<std::string>{"rows", "cols"});
  CHECK_EQ(first.dtype_params(), std::vector<std::string>{"T", "R"});
  REQUIRE_EQ(first.operands().size(), 3);
  CHECK_EQ(first.operands()[0].axes, std::vector<std::string>{"rows", "2", "cols"});
  CHECK(first.operands()[1].role == dsl::OperandInfo::Role::inout);
  CHECK_EQ(first.operands()[2].dtype_param, "R");
  REQUIRE_EQ(first.scalars().size(), 2);
  CHECK(first.scalars()[1].dtype == DType::i32);
  CHECK_FALSE(first.has_reduction());
  CHECK_EQ(kernels[1].axes(), std::vector<std::string>{"m", "n"});
  CHECK(kernels[1].operands()[0].dtype == DType::bf16);
  CHECK(kernels[1].operands()[2].role == dsl::OperandInfo::Role::out);
}

TEST_CASE("a diagnostic shows file, line, caret and a sentence") {
  CHECK_EQ(log_of("kernel k(x: T[n]) -> (y: T[n]) {\n  y = T(f32(x) + z)\n}\n"),
           "k.qk:2:18: error: `z` is not declared: did you mean `x`?\n"
           "  y = T(f32(x) + z)\n"
           "                 ^\n");
}

TEST_CASE("every fault of a file is reported, one after another") {
  const std::string log = log_of(
      "kernel a(x: T[n]) -> (y: T[n]) { y = x + 1 }\n"
      "kernel b(x: T[n] -> (y: T[n]) { y = x }\n"
      "kernel a(x: T[n]) -> (y: T[n]) { z = f32(x)\n y = x }\n");
  CHECK(log.find("k.qk:1:38: error: `x` is T and arithmetic is in f32: write f32(x)") !=
        std::string::npos);
  CHECK(log.find("k.qk:2:18: error: expected ')' after the parameters, found '->'") !=
        std::string::npos);
  CHECK(log.find("k.qk:3:8: error: kernel `a` is defined twice") != std::string::npos);
  CHECK(log.find("k.qk:3:34: error: `z` is never used") != std::string::npos);
}

TEST_CASE("names that are not known") {
  CHECK_EQ(complaint("y = T(f32(x) * f32(weight) * eps * f32(w))"), "`weight` is not declared");
  CHECK_EQ(complaint("y = T(f32(x) * f32(w) * ep)"), "`ep` is not declared: did you mean `eps`?");
  CHECK_EQ(complaint("y = T(f32(x) * f32(w) * cols * eps)"), "`cols` is an axis, not a value");
  CHECK_EQ(complaint("y = T(f32(x) * f32(w) * exp * eps)"),
           "`exp` is a function: it needs arguments");
  CHECK_EQ(complaint("y = T(rsqr(f32(x) * f32(w) * eps))"),
           "there is no function `rsqr`: did you mean `rsqrt`?");
  CHECK_EQ(complaint("y = T(x(eps))"), "`x` is not a function");
  CHECK_EQ(complaint("y = R(eps)"), "no operand has dtype `R`");
  CHECK_EQ(complaint("y = f64(eps)"), "values cannot be cast to f64 in kernels");
  CHECK_EQ(complaint("y = T(median[cols](f32(x)))"),
           "there is no reduction `median`: use sum, mean, min, max, argmin, argmax");
  CHECK_EQ(complaint("y = T(1)", "x: float[n]"),
           "`float` is not a dtype: use f32, f16, bf16, i32, i8, u8, e4m3, e5m2, i4, or a "
           "capitalised dtype "
           "parameter");
  CHECK_EQ(complaint("y = T(1)", "x: bf61[n]"), "`bf61` is not a dtype: did you mean bf16?");
  CHECK_EQ(
      complaint("y = T(1)", "x: f64[n]"),
      "kernels have no operands of dtype f64: use f32, f16, bf16, i32, i8, u8, e4m3, e5m2, i4");
  CHECK_EQ(complaint("y = T(1)", "x: T[rows, cols]; e: f16"), "a scalar is f32 or i32");
}

TEST_CASE("names that clash") {
  CHECK_EQ(complaint("y = x", "x: T[rows, cols], x: T[cols]"), "`x` is declared twice");
  CHECK_EQ(complaint("sum = f32(x)\n y = T(sum * f32(w) * eps)"),
           "`sum` is a built-in function: choose another name");
  CHECK_EQ(complaint("f16 = f32(x)\n y = T(f16 * f32(w) * eps)"),
           "`f16` is a dtype: choose another name");
  CHECK_EQ(complaint("cols = f32(x)\n y = T(cols * f32(w) * eps)"),
           "`cols` is the name of an axis");
  CHECK_EQ(complaint("y = x", "cols: T[rows], x: T[rows, cols]"),
           "`cols` is also the name of a parameter");
  CHECK_EQ(complaint("h = f32(x)\n h = h * eps * f32(w)\n y = T(h)"),
           "`h` already has a value: choose another name");
}

TEST_CASE("types never change by themselves") {
  CHECK_EQ(complaint("y = f32(x) * f32(w) * eps"),
           "`y` is T but the value is f32: write y = T(...)");
  CHECK_EQ(complaint("y = x * w * eps"), "`x` is T and arithmetic is in f32: write f32(x)");
  CHECK_EQ(complaint("y = T(-x[0])", "x: T[2, rows, cols]"),
           "`x` is T and arithmetic is in f32: write f32(x[0])");
  CHECK_EQ(complaint("y = T(T(x) + 1)", "x: R[rows, cols]"),
           "this is T and arithmetic is in f32: cast it with f32(...)");
  CHECK_EQ(complaint("y = T(f32(x) * n)", "x: T[rows, cols]; n: i32"),
           "`n` is i32 and arithmetic is in f32: write f32(n)");
  CHECK_EQ(complaint("y = T((f32(x) < f32(w)) + eps)"),
           "a comparison is no number: choose between two with select(condition, a, b)");
  CHECK_EQ(complaint("y = T(f32(x) < f32(w))"),
           "a comparison is no number: choose between two with select(condition, a, b)");
  CHECK_EQ(complaint("y = f32(x) < f32(w) * eps"),
           "`y` is T but the value is a comparison: use select");
  CHECK_EQ(complaint("y = select(eps, x, x)"),
           "the condition of select is a comparison, as in a < b");
  CHECK_EQ(complaint("y = select(eps < f32(w), x, f32(x))"),
           "select needs two values of one dtype, not T and f32");
}

TEST_CASE("axes match by name") {
  CHECK_EQ(complaint("y = T(f32(x) * f32(w))", "x: T[rows, cols], w: T[hidden]"),
           "no operand has all of axes rows, cols, hidden");
  CHECK_EQ(complaint("y = T(f32(a) * f32(b))\n z = x", "x: T[p, q, r], a: T[p, q], b: T[r]",
                     "y: T[p, q], z: T[p, q, r]"),
           "`y` has axes p, q, but the value has axes p, q, r");
  CHECK_EQ(complaint("y = w", "x: T[rows, cols], w: T[cols, rows]"),
           "operands disagree about the order of axes rows, cols");
  CHECK_EQ(complaint("y = x", "x: T[rows, rows]", "y: T[rows]"), "`x` has axis rows twice");
  CHECK_EQ(complaint("y = x", "x: T[a, b, c, d, e]", "y: T[a, b, c, d, e]"),
           "an operand has at most 4 named axes");
  CHECK_EQ(
      complaint("y = x\n z = w", "x: T[rows, cols], w: T[cols]", "y: T[rows, cols], z: T[cols]"),
      "`z` is written for each of rows, so it must have axis rows");
  CHECK_EQ(complaint("y[0] = x", "x: T[rows]", "y: T[rows, 2]"), "`y[1]` is never assigned");
  CHECK_EQ(complaint("y = x", "x: T[rows]", "y: T[rows, 2]"),
           "`y` has 1 fixed axis: index it with whole numbers, as in y[0]");
  CHECK_EQ(complaint("y[0] = x\n y[0] = x", "x: T[rows]", "y: T[rows, 1]"),
           "`y[0]` is assigned twice");
  CHECK_EQ(complaint("y[0] = x", "x: T[rows]", "y: T[rows, 65]"),
           "`y` is written, so its fixed axes have at most 64 places");
  CHECK_EQ(complaint("h[0] = x\n y = h", "x: T[rows]", "y: T[rows]"),
           "`h` is no operand, so it has no fixed axis");
  CHECK_EQ(complaint("y = T(1)", "x: T[0]"), "a fixed extent is a whole number from 1 to 1048576");
}

TEST_CASE("axes of a sum of products must fit one operand") {
  const std::string log = log_of(
      "kernel k(x: T[p, q, r], a: T[p], b: T[r]) -> (y: T[p, q]) {\n"
      "  y = T(f32(a) * max[r](f32(x)) + f32(b))\n}\n");
  CHECK(log.find("`y` has axes p, q, but the value has axes p, q, r") != std::string::npos);
}

TEST_CASE("reductions") {
  CHECK_EQ(complaint("y = T(f32(x) * sum(f32(x)))"),
           "say which axis to reduce, as in sum[cols](...)");
  CHECK_EQ(complaint("y = T(f32(x) * sum[col](f32(x)))"),
           "there is no axis col: did you mean cols?");
  CHECK_EQ(
      complaint("y = T(sum[rows](f32(x)) * sum[cols](f32(x)))", "x: T[rows, cols]"),
      "a kernel that reduces over cols can also reduce over rows, cols, but not over rows what "
      "varies along cols");
  CHECK_EQ(complaint("y = T(sum[b](f32(x)) * sum[b, c](f32(x)))", "x: T[a, b, c]", "y: T[a, c]"),
           "one kernel cannot reduce over b and over c");
  CHECK_EQ(complaint("y = T(f32(x) * sum[cols, cols](f32(x)))"), "axis cols is named twice");
  CHECK_EQ(complaint("y = T(f32(x) * sum[0](f32(x)))"),
           "`sum` takes the names of axes between brackets");
  CHECK_EQ(complaint("y = T(sum[cols](f32(x)))", "x: T[rows, cols]", "y: T[cols]"),
           "`y` has axis cols, but the value has axis rows");
  CHECK_EQ(complaint("y = T(sum[a, b, c](f32(x)))\n z = y", "x: T[a, b, c]", "y: T[a], z: T[c]"),
           "`z` has c of the axes of a row, a, b, c: it should have all, a or none");
  CHECK_EQ(complaint("y = i4(sum[cols](f32(x)))", "x: T[rows, cols]", "y: i4[rows]"),
           "`y` is packed in pairs, which must be written together: its last axis should be cols");
  CHECK_EQ(complaint("y = i4(sum[a, b](f32(x)))", "x: T[a, b, c]", "y: i4[c]"),
           "`y` is packed in pairs, which must be written together: it should have axes a, b");
  CHECK_EQ(complaint("y = T(f32(x) * sum[cols](eps))"),
           "what is reduced over cols does not vary along it: `eps` has no axes");
  CHECK_EQ(complaint("y = T(f32(x) * max[cols](f32(x), eps))"), "`max` takes 1 argument, not 2");
}

TEST_CASE("arguments and indices are counted") {
  CHECK_EQ(complaint("y = T(exp(f32(x), eps))"), "`exp` takes 1 argument, not 2");
  CHECK_EQ(complaint("y = T(min(f32(x)))"), "`min` takes 2 arguments, not 1");
  CHECK_EQ(complaint("y = T()"), "`T` takes 1 argument, not 0");
  CHECK_EQ(complaint("y = g", "g: T[rows, 2, cols]"),
           "`g` has 1 fixed axis: index it with whole numbers, as in g[0]");
  CHECK_EQ(complaint("y = g[2]", "g: T[rows, 2, cols]"),
           "an index of `g` here is a whole number from 0 to 1");
  CHECK_EQ(complaint("y = g[cols]", "g: T[rows, 2, cols]"),
           "an index of `g` here is a whole number from 0 to 1");
  CHECK_EQ(complaint("y = x[0]"), "`x` has no fixed axis to index: named axes match by name");
}

TEST_CASE("what is declared is used, and outputs are written once") {
  CHECK_EQ(complaint("y = T(f32(x) * eps)"), "`w` is never used");
  CHECK_EQ(complaint("y = T(f32(x) * f32(w))"), "`eps` is never used");
  CHECK_EQ(complaint("h = f32(w)\n y = T(f32(x) * eps * f32(w))"), "`h` is never used");
  CHECK_EQ(complaint("h = f32(x) * eps * f32(w)\n g = h"), "`y` is never assigned");
  CHECK_EQ(complaint("y = x\n y = w"), "`y` is assigned twice");
  CHECK_EQ(complaint("x = w\n y = x"), "`x` is an input: declare it `inout` to overwrite it");
  CHECK_EQ(complaint("h = f32(y)\n y = T(h)"), "`y` is an output and has no value yet");
  CHECK_EQ(complaint("x = w\n y = x", "x: inout T[rows, cols], w: T[cols]"),
           "`x` is overwritten without being read: declare it as an output");
  CHECK_EQ(log_of("kernel k(x: T[n]) { h = x }").substr(0, 56),
           "k.qk:1:8: error: this kernel writes nothing: it needs an");
  CHECK_EQ(log_of("# nothing\n").substr(0, 41), "k.qk:1:1: error: this file has no kernel\n");
}

TEST_CASE("gathers") {
  const std::string params = "table: T[vocab, cols], ids: i32[rows]";
  CHECK_EQ(complaint("y = table[vocab = ids]", params), "(no error)");
  CHECK_EQ(complaint("y = table[vocab = 3]", "table: T[vocab, cols], x: T[rows, cols]"),
           "`x` is never used");
  CHECK_EQ(complaint("y = table[vocab = f32(ids)]", params),
           "this is f32 and an index is i32: cast it with i32(...)");
  CHECK_EQ(complaint("y = table[vocab = ids < 3]", params),
           "a comparison is no index: choose between two with select(condition, a, b)");
  CHECK_EQ(complaint("y = x[n = 1]", "x: T[rows, cols]"), "`x` has no axis n");
  CHECK_EQ(complaint("y = table[vocab = ids, vocab = ids]", params), "axis vocab is indexed twice");
  CHECK_EQ(complaint("y = table[vocab = index(vocab)]", params),
           "axis vocab is only gathered along, so nothing varies along it");
  CHECK_EQ(complaint("y = table[vocab = i32(y)]", params), "`y` is an output and has no value yet");
  CHECK_EQ(complaint("x = x[cols = 1]\n y = T(1)", "x: inout T[rows, cols]"),
           "`x` is written, so it cannot be gathered from");
  const dsl::Kernel kernel =
      dsl::parse(
          "kernel k(table: T[vocab, cols], ids: i32[rows]) -> (y: T[rows, cols]) {\n"
          "  y = table[vocab = ids] }",
          "k.qk")
          .at(0);
  CHECK_EQ(kernel.axes(), std::vector<std::string>{"rows", "cols", "vocab"});
  CHECK_EQ(kernel.num_iterated_axes(), 2);
  CHECK_EQ(kernel.row_axes(), std::vector<std::string>{"rows"});
}

TEST_CASE("functions and reductions of one's own") {
  const auto body = [](const std::string& functions, const std::string& value) {
    const std::string text = functions +
                             "\nkernel k(x: f32[rows, cols]) -> (y: f32[rows, cols]) {" +
                             "y = " + value + " }";
    try {
      dsl::parse(text, "k.qk");
    } catch (const CompileError& error) {
      const std::string what = error.what();
      return what.substr(what.find(": ") + 2);
    }
    return std::string("(no error)");
  };
  CHECK_EQ(body("let twice(v) = v + v", "twice(twice(x))"), "(no error)");
  CHECK_EQ(body("let share[a](v) = v / sum[a](v)", "share[cols](x)"), "(no error)");
  CHECK_EQ(body("reduction product(a, b) = a * b from 1", "x * product[cols](x)"), "(no error)");
  CHECK_EQ(body("let f(v) = v + g(v)\nlet g(v) = v", "f(x)"),
           "`g` is defined further down: a function is made of earlier ones");
  CHECK_EQ(body("let f(v) = v + x", "f(x)"),
           "a function is made of its parameters: there is no `x`");
  CHECK_EQ(body("let f(v) = v + w", "x"), "a function is made of its parameters: there is no `w`");
  CHECK_EQ(body("let f(v, w) = v", "f(x, x)"), "`w` is never used");
  CHECK_EQ(body("let f(v, v) = v", "f(x, x)"), "`v` is declared twice");
  CHECK_EQ(body("let f(v) = v\nlet f(w) = w", "f(x)"), "`f` is defined twice");
  CHECK_EQ(body("let exp(v) = v", "exp(x)"), "`exp` is built in: choose another name");
  CHECK_EQ(body("let F(v) = v", "F(x)"),
           "capitalised names are dtype parameters: choose another name");
  CHECK_EQ(body("let f(v) = v", "f(x, x)"), "`f` takes 1 argument, not 2");
  CHECK_EQ(body("let f(v) = v", "f[cols](x)"), "`f` takes no axes");
  CHECK_EQ(body("let f[a](v) = sum[a](v)", "f(x)"), "`f` takes 1 axis, not 0: write f[a](...)");
  CHECK_EQ(body("let f[a](v) = sum[cols](v) + extent(a)", "f[cols](x)"),
           "a function knows its own axes alone: write let f[cols](...)");
  CHECK_EQ(body("reduction r(a, b) = a * c from 1", "x"), "`b` is never used");
  CHECK_EQ(body("reduction r(a, b) = a * b + c from 1", "x"),
           "a reduction is made of `a` and `b` alone");
  CHECK_EQ(body("reduction r(a, b) = a * b from a", "x"),
           "a reduction begins from a number, as in `from 0` or `from -inf`");
  CHECK_EQ(body("reduction r(a, b) = a * b", "x"),
           "expected 'from' and the value to begin with, found 'kernel'");
  CHECK_EQ(body("reduction r(a, b) = a * b from 1", "r(x)"),
           "say which axis to reduce, as in r[cols](...)");
  // Each doubles the one before: as many values as names, however often they are written.
  std::string doubling = "let g0(v) = v + 1\n";
  for (int i = 1; i < 30; ++i)
    doubling += fmt::format("let g{}(v) = g{}(v) * g{}(v + {})\n", i, i - 1, i - 1, i);
  CHECK_EQ(body(doubling, "g29(x)"), "this kernel is too large: split it");
  std::string chain = "let g0(v) = v + 1\n";
  for (int i = 1; i < 200; ++i) chain += fmt::format("let g{}(v) = g{}(v) + 1\n", i, i - 1);
  CHECK_EQ(body(chain, "g199(x)"), "functions are nested too deeply");
}

TEST_CASE("files that use others") {
  const std::map<std::string, std::string, std::less<>> files = {
      {"lib/a.qk",
       "use \"b.qk\" let fa(x) = fb(x) + 1 kernel other(x: T[n]) -> (y: T[n]) { y = x }"},
      {"lib/b.qk", "use \"a.qk\" let fb(x) = x * 2"},
      {"lib/bad.qk", "let fc(x) = x + y"}};
  const dsl::Includes includes = dsl::includes_from(files, "lib");
  const std::string kernel = "kernel k(x: f32[n]) -> (y: f32[n]) { y = fa(x) }";
  CHECK_EQ(dsl::parse("use \"a.qk\" " + kernel, "k.qk", includes).size(), 1);
  CHECK_EQ(dsl::parse("let f(x) = x", "k.qk").size(), 0);
  const auto log = [&](const std::string& text) {
    try {
      dsl::parse(text, "k.qk", includes);
    } catch (const CompileError& error) {
      return error.log();
    }
    return std::string();
  };
  CHECK(log("use \"c.qk\" " + kernel).find("k.qk:1:6: error: there is no file \"c.qk\"") == 0);
  CHECK(log("use \"bad.qk\" " + kernel).find("bad.qk:1:17: error: a function is made of") == 0);
  CHECK(log("use c " + kernel).find("expected the name of a file in quotes, found 'c'") !=
        std::string::npos);
  CHECK(log("use \"c").find("this text has no closing quote") != std::string::npos);
}

TEST_CASE("whole numbers and conditions") {
  const std::string x = "x: f32[rows, cols]", y = "y: f32[rows, cols]";
  CHECK_EQ(complaint("y = x * f32(index(cols) * 2 + 1)", x, y), "(no error)");
  CHECK_EQ(complaint("y = x + f32(index(cols) + 0.5)", x, y),
           "this is i32 and arithmetic is in f32: cast it with f32(...)");
  CHECK_EQ(complaint("y = x % 2", x, y), "% is of i32 values");
  CHECK_EQ(complaint("y = select(x < 1 && !(x > 2) || x == 3, x, -inf)", x, y), "(no error)");
  CHECK_EQ(complaint("y = select(x && x < 1, x, x)", x, y),
           "&& joins comparisons, as in a < b && c < d");
  CHECK_EQ(complaint("y = x * f32(index(2))", x, y),
           "`index` takes the name of an axis, as in index(cols)");
  CHECK_EQ(complaint("y = x * extent(cols)", x, y),
           "this is i32 and arithmetic is in f32: cast it with f32(...)");
  CHECK_EQ(complaint("y = x + inf(x)", x, y), "there is no function `inf`");
}

TEST_CASE("packed dtypes") {
  CHECK_EQ(complaint("y = T(f32(q))", "q: i4[rows, cols]"), "(no error)");
  CHECK_EQ(complaint("y = T(f32(q[0]))", "q: i4[rows, cols, 3]"),
           "`q` is packed in pairs, so its last axis should have an even extent");
  CHECK_EQ(complaint("y = q", "q: e4m3[rows, cols]", "y: e4m3[rows, cols]"), "(no error)");
}

TEST_CASE("syntax") {
  CHECK_EQ(complaint("y = x;"), "statements end by themselves: no ';' is needed");
  CHECK_EQ(complaint("y = (f32(x)"), "expected ')' to close the parenthesis, found '}'");
  CHECK_EQ(complaint("y = T(1 < 2 < 3)"), "comparisons cannot be chained");
  CHECK_EQ(complaint("y = T(1.2.3)"), "this is not a number");
  CHECK_EQ(complaint("y = T(1e99)"), "this number is outside the range of f32");
  CHECK_EQ(complaint("y = T(2 ^ 3)"), "'^' has no meaning here");
  CHECK_EQ(complaint("y = T(\xc3\xa9)"), "only ASCII text has a meaning outside comments");
  CHECK_EQ(complaint("y ="), "expected an expression, found '}'");
  CHECK(log_of("kernel k(x: T[n]) -> (y: T[n]) {").find("but the file ends here") !=
        std::string::npos);
}

TEST_CASE("deep and long texts end in a diagnostic") {
  const auto kernel = [](const std::string& e) {
    return "kernel k(x: f32[n]) -> (y: f32[n]) { y = " + e + " }";
  };
  const auto repeat = [](const std::string& piece, std::size_t count) {
    std::string out;
    for (std::size_t i = 0; i < count; ++i) out += piece;
    return out;
  };
  CHECK(log_of(kernel(repeat("(", 200000))).find("nested too deeply") != std::string::npos);
  CHECK(log_of(kernel(repeat("exp(", 50000) + "x")).find("nested too deeply") != std::string::npos);
  CHECK(log_of(kernel(repeat("-", 200000) + "x")).find("one minus sign") != std::string::npos);
  CHECK(log_of(kernel("x" + repeat(" + x", 100000))).find("too deep") != std::string::npos);
  CHECK(log_of(kernel(repeat("9", 100000))).find("outside the range") != std::string::npos);
  CHECK(log_of(kernel(repeat("a", 100000))).find("at most 64 characters") != std::string::npos);
  CHECK(log_of(repeat("kernel ", 100000)).find("expected") != std::string::npos);
  CHECK(log_of(repeat("\xff", 100000)).find("only ASCII") != std::string::npos);
  CHECK(log_of(std::string(2 << 20, ' ')).find("at most 1 MiB") != std::string::npos);
  std::string chain = "a0 = x\n";
  for (int i = 1; i < 6000; ++i) chain += fmt::format("a{} = a{} + {}\n", i, i - 1, i);
  CHECK(
      log_of("kernel k(x: f32[n]) -> (y: f32[n]) {\n" + chain + "y = a5999 }").find("too large") !=
      std::string::npos);
  CHECK_NOTHROW(dsl::parse(kernel("x" + repeat(" + x", 200)), "k.qk"));
  CHECK_NOTHROW(dsl::parse(kernel(repeat("(", 90) + "x" + repeat(")", 90)), "k.qk"));
}

TEST_CASE("no damaged text is worse than a diagnostic") {
  std::mt19937 random(7);
  std::size_t parsed = 0, refused = 0;
  const auto attempt = [&](const std::string& text) {
    try {
      dsl::parse(text, "damaged.qk");
      ++parsed;
    } catch (const CompileError& error) {
      ++refused;
      const std::string& log = error.log();
      const bool printable = std::all_of(log.begin(), log.end(), [](char c) {
        return c == '\n' || c == '\t' || (c >= ' ' && c <= '~');
      });
      if (!printable || log.empty()) FAIL(text);
    }
  };
  constexpr std::string_view pieces[] = {"(", ")",      "[",     "]",    "{", "}", "->",
                                         ";", "kernel", "inout", "1e38", "0", ",", "=",
                                         "-", "\0",     "T",     "cols", "\n"};
  for (const auto& [path, text] : embedded_templates()) {
    if (!path.ends_with(".qk")) continue;
    for (std::size_t end = 0; end <= text.size(); ++end) attempt(text.substr(0, end));
    for (int round = 0; round < 400; ++round) {
      std::string damaged = text;
      const auto place = [&] { return random() % damaged.size(); };
      for (unsigned change = 0; change <= random() % 3; ++change) switch (random() % 4) {
          case 0:
            damaged[place()] = static_cast<char>(random());
            break;
          case 1:
            damaged.erase(place(), 1 + random() % 8);
            break;
          case 2:
            damaged.insert(place(), pieces[random() % std::size(pieces)]);
            break;
          default:
            damaged.insert(place(), damaged.substr(place(), random() % 40));
        }
      attempt(damaged);
    }
  }
  CHECK_GT(parsed, 0);
  CHECK_GT(refused, 1000);
}

TEST_CASE("every example on the language page compiles") {
  const std::string page = read_file(std::string(QUERN_SOURCE_DIR) + "/compiler/README.md");
  int kernels = 0;
  for (std::size_t at = page.find("```qk\n"); at != page.npos; at = page.find("```qk\n", at + 1)) {
    const std::size_t begin = at + 6;
    const std::string text = page.substr(begin, page.find("```", begin) - begin);
    CAPTURE(text);
    std::size_t count = 0;
    CHECK_NOTHROW(count = dsl::parse(text, "README.md").size());
    kernels += static_cast<int>(count);
  }
  CHECK_GE(kernels, 11);
}
