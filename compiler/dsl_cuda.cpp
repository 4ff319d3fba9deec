#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "compiler/dsl_passes.h"
#include "compiler/dsl_schedule.h"
#include "compiler/dsl_tree.h"
#include "runtime/base/error.h"

namespace quern::dsl {
namespace {

/// Words that a variable or member must not be called: keywords, macros that compilers predefine,
/// and what the generated code itself refers to.
const std::set<std::string, std::less<>>& reserved_words() {
  static const std::set<std::string, std::less<>> words = {
      "alignas",       "alignof",     "and",
      "and_eq",        "asm",         "auto",
      "bitand",        "bitor",       "bool",
      "break",         "case",        "catch",
      "char",          "char8_t",     "char16_t",
      "char32_t",      "class",       "co_await",
      "co_return",     "co_yield",    "compl",
      "concept",       "const",       "const_cast",
      "consteval",     "constexpr",   "constinit",
      "continue",      "decltype",    "default",
      "delete",        "do",          "double",
      "dynamic_cast",  "else",        "enum",
      "explicit",      "export",      "extern",
      "false",         "float",       "for",
      "friend",        "goto",        "if",
      "inline",        "int",         "long",
      "mutable",       "namespace",   "new",
      "noexcept",      "not",         "not_eq",
      "nullptr",       "operator",    "or",
      "or_eq",         "private",     "protected",
      "public",        "register",    "reinterpret_cast",
      "requires",      "return",      "short",
      "signed",        "sizeof",      "static",
      "static_assert", "static_cast", "struct",
      "switch",        "template",    "this",
      "thread_local",  "throw",       "true",
      "try",           "typedef",     "typeid",
      "typename",      "typeof",      "union",
      "unsigned",      "using",       "virtual",
      "void",          "volatile",    "wchar_t",
      "while",         "xor",         "xor_eq",
      "restrict",      "linux",       "unix",
      "i386",          "NULL",        "NAN",
      "INFINITY",      "Args",        "Vector",
      "args",          "bf16",        "f16",
      "blockIdx",      "gridDim",     "threadIdx",
      "load",          "store",       "prefetch",
      "row",           "col",         "lane",
      "item",          "chunk",       "i",
      "shared",        "to_f32",      "to_f16",
      "to_bf16",       "to_i32",      "to_i8",
      "to_u8",         "row_sum",     "row_max",
      "row_min",       "sigmoid",     "min",
      "max",           "expf",        "logf",
      "sqrtf",         "rsqrtf",      "tanhf",
      "erff",          "sinf",        "cosf",
      "fabsf",         "fminf",       "fmaxf",
      "vectors",       "num_rows"};
  return words;
}

/// Gives out names that clash with nothing.
class Names {
 public:
  std::string take(const std::string& wanted) {
    std::string name = reserved_words().count(wanted) ? wanted + "_" : wanted;
    for (int count = 2; !taken_.insert(name).second; ++count)
      name = fmt::format("{}_{}", wanted, count);
    return name;
  }

 private:
  std::set<std::string> taken_;
};

/// A piece of C++ and how tightly it binds.
struct Code {
  enum Level { ternary, comparison, sum, product, unary, primary };
  std::string text;
  Level level = primary;

  std::string at_least(Level wanted) const { return level >= wanted ? text : "(" + text + ")"; }
};

std::string literal(float value) {
  std::string text = fmt::format("{}", value);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text + "f";
}

std::string type_name(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "int";
    case DType::i8:
      return "signed char";
    case DType::u8:
      return "unsigned char";
    case DType::boolean:
      return "bool";
    default:
      return "float";
  }
}

struct Helper {
  std::string_view name, text;
};

/// What generated source may call; only what it does call is written. Conversions to 16 bits round
/// to nearest even; those to integers also saturate and take NaN to 0.
constexpr Helper kHelpers[] = {
    {"bf16", "struct bf16 {\n  unsigned short bits;\n};\n"},
    {"f16", "struct f16 {\n  unsigned short bits;\n};\n"},
    {"to_f32 bf16",
     "__device__ inline float to_f32(bf16 x) {\n"
     "  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);\n}\n"},
    {"to_f32 f16",
     "__device__ inline float to_f32(f16 x) {\n  float out;\n"
     "  asm(\"cvt.f32.f16 %0, %1;\" : \"=f\"(out) : \"h\"(x.bits));\n  return out;\n}\n"},
    {"to_f32 int", "__device__ inline float to_f32(int x) { return static_cast<float>(x); }\n"},
    {"to_bf16",
     "__device__ inline bf16 to_bf16(float x) {\n  bf16 out;\n"
     "  asm(\"cvt.rn.bf16.f32 %0, %1;\" : \"=h\"(out.bits) : \"f\"(x));\n  return out;\n}\n"},
    {"to_f16",
     "__device__ inline f16 to_f16(float x) {\n  f16 out;\n"
     "  asm(\"cvt.rn.f16.f32 %0, %1;\" : \"=h\"(out.bits) : \"f\"(x));\n  return out;\n}\n"},
    {"to_i32",
     "__device__ inline int to_i32(int x) { return x; }\n"
     "__device__ inline int to_i32(float x) { return __float2int_rn(x); }\n"},
    {"to_i8",
     "__device__ inline signed char to_i8(int x) {\n"
     "  return static_cast<signed char>(max(-128, min(127, x)));\n}\n"
     "__device__ inline signed char to_i8(float x) { return to_i8(__float2int_rn(x)); }\n"},
    {"to_u8",
     "__device__ inline unsigned char to_u8(int x) {\n"
     "  return static_cast<unsigned char>(max(0, min(255, x)));\n}\n"
     "__device__ inline unsigned char to_u8(float x) { return to_u8(__float2int_rn(x)); }\n"},
    {"sigmoid",
     "__device__ inline float sigmoid(float x) { return __fdividef(1.0f, 1.0f + expf(-x)); }\n"},
    {"load",
     "// Elements that move together, in accesses of up to 16 bytes.\n"
     "template <class T, int N>\n"
     "struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Vector {\n  T at[N];\n};\n\n"
     "template <int N, class T>\n"
     "__device__ inline Vector<T, N> load(const T* from) {\n"
     "  return *reinterpret_cast<const Vector<T, N>*>(from);\n}\n\n"
     "template <int N, class T>\n"
     "__device__ inline void store(T* to, const Vector<T, N>& value) {\n"
     "  *reinterpret_cast<Vector<T, N>*>(to) = value;\n}\n"},
    {"prefetch",
     "__device__ inline void prefetch(const void* address) {\n"
     "  asm volatile(\"prefetch.global.L2 [%0];\" ::\"l\"(address));\n}\n"},
};

class CudaWriter {
 public:
  CudaWriter(const Tree& tree, const Binding& binding, const Schedule& schedule,
             const std::string& entry)
      : tree_(tree),
        binding_(binding),
        schedule_(schedule),
        entry_(entry),
        shape_(cuda_shape(tree, binding, schedule)),
        passes_(plan_passes(tree, shape_.keeps)),
        cols_(bound_row_length(tree, binding)),
        variables_(tree.nodes.size()) {}

  std::string write() {
    for (const std::string& axis : tree_.axes) axes_.push_back(names_.take(axis));
    find_kept();
    kernel();
    return header() + body_;
  }

 private:
  static std::size_t at(int number) { return static_cast<std::size_t>(number); }
  const Node& node(int number) const { return tree_.nodes[at(number)]; }
  bool along_last(int number) const { return passes_.along_last[at(number)]; }
  DType dtype_of(const Type& type) const {
    return type.dtype == DType::boolean ? type.dtype : resolve(tree_, type, binding_);
  }
  DType operand_dtype(int operand) const { return dtype_of(tree_.operand_types[at(operand)]); }
  bool is_kept(int number) const {
    return std::binary_search(passes_.kept.begin(), passes_.kept.end(), number);
  }
  /// A load of `vector` neighbours at once.
  bool is_vector_load(int number) const {
    return node(number).op == Op::load && stride_along_last(tree_, node(number).index) == 1;
  }

  template <class... Args>
  void line(fmt::format_string<Args...> format, Args&&... args) {
    body_ +=
        std::string(at(indent_) * 2, ' ') + fmt::format(format, std::forward<Args>(args)...) + "\n";
  }
  void open(const std::string& text) {
    line("{}{{", text.empty() ? text : text + " ");
    ++indent_;
  }
  void close() {
    --indent_;
    line("}}");
  }
  void need(std::string_view helper) { helpers_.insert(helper); }

  std::string type_of(int number) {
    const DType dtype = dtype_of(node(number).type);
    if (dtype == DType::bf16 || dtype == DType::f16) need(quern::name(dtype));
    return type_name(dtype);
  }

  // The file around the kernel.

  static std::string member(const std::string& name) {
    return reserved_words().count(name) ? name + "_" : name;
  }

  std::string header() {
    std::string out = fmt::format("// Kernel {} of Quern's kernel language", tree_.name);
    for (const auto& param : tree_.dtype_params)
      out += fmt::format(", {} = {}", param, quern::name(binding_.dtypes.at(param)));
    for (const std::string& axis : tree_.axes)
      if (const auto bound = binding_.extents.find(axis); bound != binding_.extents.end())
        out += fmt::format(", {} = {}", axis, bound->second);
    out += ".\n\n";
    std::string args = "struct Args {\n";
    for (std::size_t i = 0; i < tree_.operands.size(); ++i) {
      const OperandInfo& info = tree_.operands[i];
      const DType dtype = operand_dtype(static_cast<int>(i));
      if (dtype == DType::bf16 || dtype == DType::f16) need(quern::name(dtype));
      args +=
          fmt::format("  {}{}* {};  // [{}]\n", info.role == OperandInfo::Role::in ? "const " : "",
                      type_name(dtype), member(info.name), fmt::join(info.axes, ", "));
    }
    for (const ScalarInfo& scalar : tree_.scalars)
      args += fmt::format("  {} {};\n", type_name(scalar.dtype), member(scalar.name));
    for (const std::string& axis : tree_.axes)
      args += fmt::format("  long long {};\n", member(axis));
    args += "};\n";
    for (const Helper& helper : kHelpers)
      if (helpers_.count(helper.name)) out += std::string(helper.text) + "\n";
    return out + reduction_helpers() + args + "\n";
  }

  std::string reduction_helpers() {
    std::string out;
    const int threads = schedule_.threads_per_row;
    const int width = std::min(threads, 32);
    for (const Op op : {Op::reduce_sum, Op::reduce_max, Op::reduce_min}) {
      if (!folds_.count(op)) continue;
      const std::string name = fold_name(op);
      const auto folded = [&](const std::string& other) {
        return op == Op::reduce_sum   ? "value + " + other
               : op == Op::reduce_max ? "fmaxf(value, " + other + ")"
                                      : "fminf(value, " + other + ")";
      };
      const std::string lanes = width == 32 ? "0xffffffffu"
                                            : fmt::format("{:#x}u << threadIdx.x % 32 / {} * {}",
                                                          (1u << width) - 1, width, width);
      const std::string shuffle = fmt::format(
          "#pragma unroll\n  for (int apart = {}; apart > 0; apart /= 2)\n"
          "    value = {};\n  return value;\n",
          width / 2, folded("__shfl_xor_sync(lanes, value, apart)"));
      const std::string warp = threads > 32 ? "warp" + name.substr(3) : name;
      if (width == 1) {
        out += fmt::format("__device__ inline float {}(float value) {{ return value; }}\n\n", warp);
        continue;
      }
      out += fmt::format(
          "// Over the {} neighbouring threads that share {}; each gets the result.\n"
          "__device__ inline float {}(float value) {{\n  const unsigned lanes = {};\n{}}}\n\n",
          width, threads > 32 ? "a warp" : "a row", warp, lanes, shuffle);
      if (threads > 32)
        out += fmt::format(
            "// Over the block; `shared` has a place for each warp.\n"
            "__device__ inline float {}(float value, float* shared) {{\n  value = {}(value);\n"
            "  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;\n  __syncthreads();\n"
            "  value = threadIdx.x % 32 < {} ? shared[threadIdx.x % 32] : {};\n"
            "  return {}(value);\n}}\n\n",
            name, warp, threads / 32, identity(op), warp);
    }
    return out;
  }

  static std::string fold_name(Op op) {
    return op == Op::reduce_max ? "row_max" : op == Op::reduce_min ? "row_min" : "row_sum";
  }
  static std::string identity(Op op) {
    return op == Op::reduce_max   ? "-__int_as_float(0x7f800000)"
           : op == Op::reduce_min ? "__int_as_float(0x7f800000)"
                                  : "0.0f";
  }

  // The kernel.

  void find_kept() {
    for (const int n : passes_.kept) variables_[at(n)] = names_.take(variable_wish(n));
  }

  void kernel() {
    open(
        fmt::format("extern \"C\" __global__ void __launch_bounds__({}) {}(\n"
                    "    const __grid_constant__ Args args)",
                    schedule_.threads, entry_));
    std::size_t num_reductions = 0;
    for (const Pass& pass : passes_.passes) num_reductions += pass.reductions.size();
    const std::string before = std::move(body_);
    body_.clear();
    num_rows_ = tree_.axes.size() == 1 ? "1" : tree_.axes.size() == 2 ? axes_[0] : "num_rows";
    if (shape_.reduces) {
      if (schedule_.threads_per_row > 32) line("__shared__ float shared[{}][32];", num_reductions);
      row_of_thread();
      row();
    } else {
      item_of_thread();
    }
    body_ = before + extents(body_) + body_;
    close();
  }

  static bool mentions(std::string_view text, std::string_view name) {
    const auto is_word = [&](std::size_t i) {
      return i < text.size() &&
             (std::isalnum(static_cast<unsigned char>(text[i])) || text[i] == '_');
    };
    for (std::size_t i = text.find(name); i != text.npos; i = text.find(name, i + 1))
      if (!(i > 0 && (is_word(i - 1) || text[i - 1] == '.')) && !is_word(i + name.size()))
        return true;
    return false;
  }

  /// Declarations of the extents that `text` needs.
  std::string extents(const std::string& text) const {
    const std::string rows = tree_.axes.size() > 2 && mentions(text, "num_rows")
                                 ? fmt::format("  const long long num_rows = {};\n",
                                               fmt::join(axes_.begin(), axes_.end() - 1, " * "))
                                 : std::string();
    std::string out;
    for (std::size_t i = 0; i < tree_.axes.size(); ++i) {
      if (!mentions(text, axes_[i]) && !mentions(rows, axes_[i])) continue;
      const auto bound = binding_.extents.find(tree_.axes[i]);
      out +=
          bound != binding_.extents.end()
              ? fmt::format("  constexpr long long {} = {};\n", axes_[i], bound->second)
              : fmt::format("  const long long {} = args.{};\n", axes_[i], member(tree_.axes[i]));
    }
    return out + rows;
  }

  std::string col_type() const { return cols_ > 0 && cols_ < (1LL << 30) ? "int" : "long long"; }

  void wait_for_predecessor() {
    if (!schedule_.pdl) return;
    body_ += "#if __CUDA_ARCH__ >= 900\n";
    line("asm volatile(\"griddepcontrol.wait;\" ::: \"memory\");");
    line("asm volatile(\"griddepcontrol.launch_dependents;\");");
    body_ += "#endif\n";
  }

  void row_of_thread() {
    const int per_row = schedule_.threads_per_row;
    if (per_row == schedule_.threads) {
      line("const long long row = blockIdx.x;");
      line("const int lane = threadIdx.x;");
    } else {
      line("const long long row = blockIdx.x * {}ll + threadIdx.x / {};",
           schedule_.threads / per_row, per_row);
      line("const int lane = threadIdx.x % {};", per_row);
    }
    if (schedule_.pdl) prefetch_parameters();
    wait_for_predecessor();
    line("if (row >= {}) return;", num_rows_);
    leading_indices();
  }

  /// Operands that all rows share are most often weights, which no predecessor writes. Fetching
  /// them into L2 before waiting is harmless if one does.
  void prefetch_parameters() {
    std::vector<std::string> lines;
    for (std::size_t i = 0; i < tree_.operands.size(); ++i) {
      const auto& layout = tree_.layouts[i];
      if (layout.size() != 1 || layout[0].axis != tree_.last_axis()) continue;
      lines.push_back(fmt::format("prefetch(args.{} + col);", member(tree_.operands[i].name)));
    }
    if (lines.empty()) return;
    need("prefetch");
    open(fmt::format("for ({0} col = lane * {1}; col < {2}; col += {3})", col_type(), shape_.vector,
                     axes_.back(), shape_.vector * schedule_.threads_per_row));
    for (const std::string& text : lines) line("{}", text);
    close();
  }

  void item_of_thread() {
    wait_for_predecessor();
    const std::string step = fmt::format("{}ll", schedule_.threads);
    if (shape_.vector > 1)
      line("constexpr {} vectors = {};  // in a row", col_type(), cols_ / shape_.vector);
    const std::string in_row = shape_.vector > 1 ? "vectors" : axes_.back();
    open(
        fmt::format("for (long long item = blockIdx.x * {0} + threadIdx.x; item < {1}{2};\n"
                    "       item += gridDim.x * {0})",
                    step, num_rows_ == "1" ? "" : num_rows_ + " * ", in_row));
    if (num_rows_ != "1") line("const long long row = item / {};", in_row);
    const std::string index = num_rows_ == "1" ? "item" : fmt::format("item % {}", in_row);
    if (shape_.vector > 1)
      line("const {0} col = static_cast<{0}>({1}) * {2};", col_type(), index, shape_.vector);
    else
      line("const {0} col = static_cast<{0}>({1});", col_type(), index);
    leading_indices();
    const Pass& pass = passes_.passes.front();
    row_values(pass);
    column_values(pass, true);
    bool any = false;
    for (const Store& store : tree_.stores) any = any || !stride_along_last(tree_, store.operand);
    if (any) {
      open("if (col == 0)");
      store_row_values();
      close();
    }
    close();
  }

  /// Indices along single leading axes, for operands that lack some of them.
  void leading_indices() {
    const int leading = tree_.last_axis();
    indices_.assign(at(leading), leading == 1 ? "row" : "");
    if (leading < 2) return;
    AxisSet used = 0;
    for (const auto& layout : tree_.layouts) {
      if (starts_with_row(layout)) continue;
      for (const Dimension& dimension : layout)
        if (dimension.axis >= 0) used |= 1u << dimension.axis;
    }
    std::string rest = "row";
    for (int axis = leading - 1; axis >= 0; --axis) {
      const std::string& extent = axes_[at(axis)];
      if ((used >> axis) & 1u) {
        indices_[at(axis)] = names_.take(tree_.axes[at(axis)] + "_index");
        line("const long long {} = {}{};", indices_[at(axis)], rest,
             axis == 0 ? "" : " % " + extent);
      }
      rest += " / " + extent;
    }
  }

  bool starts_with_row(const std::vector<Dimension>& layout) const {
    const std::size_t leading = at(tree_.last_axis());
    if (layout.size() < leading) return false;
    for (std::size_t i = 0; i < leading; ++i)
      if (layout[i].axis != static_cast<int>(i)) return false;
    return true;
  }

  /// "(row * 2 + 1) * cols + col"
  std::string offset(int operand, const std::vector<std::int64_t>& picked, const std::string& col) {
    const auto& layout = tree_.layouts[at(operand)];
    Code out{"", Code::primary};
    std::size_t first = 0, num_picked = 0;
    if (tree_.last_axis() > 0 && starts_with_row(layout)) {
      out.text = "row";
      first = at(tree_.last_axis());
    }
    for (std::size_t i = first; i < layout.size(); ++i) {
      const Dimension& dimension = layout[i];
      const bool fixed = dimension.axis < 0;
      const std::string extent =
          fixed ? std::to_string(dimension.extent) : axes_[at(dimension.axis)];
      const std::string index = fixed ? std::to_string(picked[num_picked++])
                                : dimension.axis == tree_.last_axis()
                                    ? col
                                    : indices_[at(dimension.axis)];
      if (out.text.empty())
        out = {index, Code::primary};
      else
        out = {fmt::format("{} * {}{}", out.at_least(Code::product), extent,
                           index == "0" ? "" : " + " + index),
               index == "0" ? Code::product : Code::sum};
    }
    return out.text;
  }

  void row() {
    for (const int n : passes_.kept) {
      if (is_vector_load(n))
        line("Vector<{}, {}> {}[{}];", type_of(n), shape_.vector, variables_[at(n)], shape_.chunks);
      else
        line("{} {}[{}];", type_of(n), variables_[at(n)], shape_.chunks * shape_.vector);
    }
    std::size_t reduction_number = 0;
    for (std::size_t p = 0; p < passes_.passes.size(); ++p) {
      const Pass& pass = passes_.passes[p];
      const bool last = p + 1 == passes_.passes.size();
      row_values(pass);
      std::vector<std::string> partials;
      for (const int n : pass.reductions) {
        variables_[at(n)] = names_.take(variable_wish(n));
        partials.push_back(names_.take(variables_[at(n)] + "_partial"));
        line("float {} = {};", partials.back(), identity(node(n).op));
      }
      if (!pass.column_nodes.empty() || !pass.kept_before.empty() || writes_columns(last))
        walk(pass, last, partials);
      for (std::size_t r = 0; r < pass.reductions.size(); ++r) {
        const int n = pass.reductions[r];
        const Op fold = node(n).op == Op::reduce_mean ? Op::reduce_sum : node(n).op;
        folds_.insert(fold);
        const std::string place = schedule_.threads_per_row > 32
                                      ? fmt::format(", shared[{}]", reduction_number)
                                      : std::string();
        ++reduction_number;
        line("const float {} = {}({}{}){};", variables_[at(n)], fold_name(fold), partials[r], place,
             node(n).op == Op::reduce_mean ? fmt::format(" / static_cast<float>({})", axes_.back())
                                           : std::string());
      }
    }
    bool any = false;
    for (const Store& store : tree_.stores) any = any || !stride_along_last(tree_, store.operand);
    if (!any) return;
    open("if (lane == 0)");
    store_row_values();
    close();
  }

  bool writes_columns(bool last) const {
    return last && std::any_of(tree_.stores.begin(), tree_.stores.end(), [&](const Store& store) {
             return stride_along_last(tree_, store.operand) != 0;
           });
  }

  /// The loop over the columns that one thread sees.
  void walk(const Pass& pass, bool last, const std::vector<std::string>& partials) {
    const int v = shape_.vector, step = v * schedule_.threads_per_row;
    if (shape_.keeps) {
      const bool partial = static_cast<std::int64_t>(shape_.chunks) * step != cols_;
      const bool reads = std::any_of(pass.column_nodes.begin(), pass.column_nodes.end(),
                                     [&](int n) { return node(n).op == Op::load; });
      chunk_ = shape_.chunks > 1 ? "chunk" : "0";
      if (shape_.chunks > 1) {
        body_ += "#pragma unroll\n";
        open(fmt::format("for (int chunk = 0; chunk < {}; ++chunk)", shape_.chunks));
      } else {
        open("");
      }
      if (partial || reads || writes_columns(last))
        line("const int col = {}{};",
             shape_.chunks > 1 ? fmt::format("(chunk * {} + lane)", schedule_.threads_per_row)
                               : "lane",
             v > 1 ? fmt::format(" * {}", v) : std::string());
      if (partial) open(fmt::format("if (col < {})", axes_.back()));
      column_values(pass, last, partials);
      if (partial) close();
      close();
      return;
    }
    open(fmt::format("for ({0} col = lane{1}; col < {2}; col += {3})", col_type(),
                     v > 1 ? fmt::format(" * {}", v) : std::string(), axes_.back(), step));
    column_values(pass, last, partials);
    close();
  }

  /// Loads, the arithmetic of each element, stores.
  void column_values(const Pass& pass, bool last, const std::vector<std::string>& partials = {}) {
    const int v = shape_.vector;
    for (const int n : pass.column_nodes) {
      if (!is_vector_load(n)) continue;
      need("load");
      const std::string from =
          fmt::format("load<{}>(args.{} + {})", v, member(tree_.operands[at(node(n).index)].name),
                      offset(node(n).index, node(n).picked, "col"));
      if (is_kept(n)) {
        line("{}[{}] = {};", variables_[at(n)], chunk_, from);
      } else {
        if (variables_[at(n)].empty()) variables_[at(n)] = names_.take(variable_wish(n));
        line("const auto {} = {};", variables_[at(n)], from);
      }
    }
    if (last)
      for (const Store& store : tree_.stores)
        if (stride_along_last(tree_, store.operand)) {
          need("load");
          line("Vector<{}, {}> {};", type_of(store.value), v, new_value(store));
        }
    if (has_element_work(pass, last)) {
      if (v > 1) {
        body_ += "#pragma unroll\n";
        open(fmt::format("for (int i = 0; i < {}; ++i)", v));
      }
      elements(pass, last, partials);
      if (v > 1) close();
    }
    if (last)
      for (const Store& store : tree_.stores)
        if (stride_along_last(tree_, store.operand))
          line("store(args.{} + {}, {});", member(tree_.operands[at(store.operand)].name),
               offset(store.operand, {}, "col"), new_value(store));
  }

  bool has_element_work(const Pass& pass, bool last) const {
    return writes_columns(last) || !pass.reductions.empty();
  }

  void elements(const Pass& pass, bool last, const std::vector<std::string>& partials) {
    std::vector<int> uses(tree_.nodes.size(), 0);
    const auto use = [&](int n) { ++uses[at(n)]; };
    for (const int n : pass.column_nodes)
      for (const int arg : node(n).args)
        if (arg >= 0) use(arg);
    for (const int n : pass.reductions) use(node(n).args[0]);
    if (last)
      for (const Store& store : tree_.stores) use(store.value);
    inlined_.clear();
    for (const int n : pass.column_nodes) {
      if (is_vector_load(n)) continue;
      const Code value = expression(n);
      if (is_kept(n)) {
        line("{}[{}] = {};", variables_[at(n)], element_index(), value.text);
      } else if (uses[at(n)] == 1 && (node(n).name.empty() || is_final(n, last))) {
        inlined_[n] = value;
      } else {
        if (variables_[at(n)].empty()) variables_[at(n)] = names_.take(variable_wish(n));
        line("const {} {} = {};", type_of(n), variables_[at(n)], value.text);
      }
    }
    for (std::size_t r = 0; r < pass.reductions.size(); ++r) {
      const Node& reduction = node(pass.reductions[r]);
      const Code value = reference(reduction.args[0]);
      if (reduction.op == Op::reduce_max || reduction.op == Op::reduce_min)
        line("{0} = {1}({0}, {2});", partials[r],
             reduction.op == Op::reduce_max ? "fmaxf" : "fminf", value.text);
      else
        line("{} += {};", partials[r], value.text);
    }
    if (last)
      for (const Store& store : tree_.stores)
        if (stride_along_last(tree_, store.operand))
          line("{}.at[{}] = {};", new_value(store), shape_.vector > 1 ? "i" : "0",
               reference(store.value).text);
    inlined_.clear();
  }

  /// The value of a store, which needs no name besides the operand's.
  bool is_final(int n, bool last) const {
    return last && std::any_of(tree_.stores.begin(), tree_.stores.end(), [&](const Store& store) {
             return store.value == n && stride_along_last(tree_, store.operand) != 0;
           });
  }

  std::string new_value(const Store& store) {
    std::string& name = new_values_[store.operand];
    if (name.empty()) name = names_.take("new_" + tree_.operands[at(store.operand)].name);
    return name;
  }

  std::string element_index() const {
    const int v = shape_.vector;
    if (v == 1) return chunk_;
    return shape_.chunks == 1 ? "i" : fmt::format("{} * {} + i", chunk_, v);
  }

  /// Values that do not vary along the last axis.
  void row_values(const Pass& pass) {
    for (const int n : pass.row_nodes) {
      if (node(n).op == Op::constant || node(n).op == Op::scalar) continue;
      const Code value = expression(n);
      if (node(n).name.empty() && only_user_is_in(pass.row_nodes, n)) {
        inlined_rows_[n] = value;
        continue;
      }
      variables_[at(n)] = names_.take(variable_wish(n));
      line("const {} {} = {};", type_of(n), variables_[at(n)], value.text);
    }
  }

  bool only_user_is_in(const std::vector<int>& nodes, int n) const {
    int users = 0, inside = 0;
    for (std::size_t m = 0; m < tree_.nodes.size(); ++m)
      for (const int arg : tree_.nodes[m].args)
        if (arg == n) {
          ++users;
          inside += std::binary_search(nodes.begin(), nodes.end(), static_cast<int>(m));
        }
    for (const Store& store : tree_.stores) users += store.value == n;
    return users == 1 && inside == 1;
  }

  void store_row_values() {
    for (const Store& store : tree_.stores)
      if (!stride_along_last(tree_, store.operand))
        line("args.{}[{}] = {};", member(tree_.operands[at(store.operand)].name),
             offset(store.operand, {}, "col"), reference(store.value).text);
  }

  std::string variable_wish(int n) const {
    const Node& wanted = node(n);
    std::string name = wanted.name;
    for (const std::int64_t index : wanted.picked) name += fmt::format("_{}", index);
    if (!name.empty()) return name;
    switch (wanted.op) {
      case Op::reduce_sum:
        return "sum";
      case Op::reduce_mean:
        return "mean";
      case Op::reduce_max:
        return "largest";
      case Op::reduce_min:
        return "smallest";
      case Op::rsqrt:
        return "scale";
      default:
        return "t";
    }
  }

  /// How other expressions write the value of `n`.
  Code reference(int n) {
    const Node& wanted = node(n);
    if (wanted.op == Op::constant) return {literal(wanted.value), Code::primary};
    if (wanted.op == Op::scalar)
      return {"args." + member(tree_.scalars[at(wanted.index)].name), Code::primary};
    if (const auto found = inlined_.find(n); found != inlined_.end()) return found->second;
    if (const auto found = inlined_rows_.find(n); found != inlined_rows_.end())
      return found->second;
    const std::string& variable = variables_[at(n)];
    if (is_vector_load(n))
      return {fmt::format("{}{}.at[{}]", variable,
                          is_kept(n) ? fmt::format("[{}]", chunk_) : std::string(),
                          shape_.vector > 1 ? "i" : "0"),
              Code::primary};
    if (is_kept(n)) return {fmt::format("{}[{}]", variable, element_index()), Code::primary};
    return {variable, Code::primary};
  }

  Code expression(int n) {
    const Node& wanted = node(n);
    const auto arg = [&](std::size_t i) { return reference(wanted.args[i]); };
    const auto infix = [&](const char* symbol, Code::Level level, Code::Level right) {
      return Code{fmt::format("{} {} {}", arg(0).at_least(level), symbol, arg(1).at_least(right)),
                  level};
    };
    const auto call = [&](const char* function) {
      std::string text = function + ("(" + arg(0).text);
      for (std::size_t i = 1; i < 3 && wanted.args[i] >= 0; ++i) text += ", " + arg(i).text;
      return Code{text + ")", Code::primary};
    };
    const auto compare = [&](const char* symbol) {
      return infix(symbol, Code::comparison, Code::sum);
    };
    switch (wanted.op) {
      case Op::load:
        return {fmt::format(
                    "args.{}[{}]", member(tree_.operands[at(wanted.index)].name),
                    offset(wanted.index, wanted.picked, shape_.vector > 1 ? "(col + i)" : "col")),
                Code::primary};
      case Op::cast:
        return cast(wanted);
      case Op::negate:
        return {"-" + arg(0).at_least(Code::primary), Code::unary};
      case Op::abs:
        return call("fabsf");
      case Op::sqrt:
        return call("sqrtf");
      case Op::rsqrt:
        return call("rsqrtf");
      case Op::exp:
        return call("expf");
      case Op::log:
        return call("logf");
      case Op::tanh:
        return call("tanhf");
      case Op::erf:
        return call("erff");
      case Op::sin:
        return call("sinf");
      case Op::cos:
        return call("cosf");
      case Op::sigmoid:
        need("sigmoid");
        return call("sigmoid");
      case Op::min:
        return call("fminf");
      case Op::max:
        return call("fmaxf");
      case Op::add:
        return infix("+", Code::sum, Code::product);
      case Op::subtract:
        return infix("-", Code::sum, Code::product);
      case Op::multiply:
        return infix("*", Code::product, Code::unary);
      case Op::divide:
        return infix("/", Code::product, Code::unary);
      case Op::less:
        return compare("<");
      case Op::less_equal:
        return compare("<=");
      case Op::greater:
        return compare(">");
      case Op::greater_equal:
        return compare(">=");
      case Op::equal:
        return compare("==");
      case Op::not_equal:
        return compare("!=");
      case Op::select:
        return {fmt::format("{} ? {} : {}", arg(0).at_least(Code::comparison),
                            arg(1).at_least(Code::comparison), arg(2).at_least(Code::comparison)),
                Code::ternary};
      default:
        return reference(n);
    }
  }

  Code cast(const Node& wanted) {
    const DType from = dtype_of(node(wanted.args[0]).type), to = dtype_of(wanted.type);
    const Code value = reference(wanted.args[0]);
    if (from == to) return value;
    const auto integer = [](DType dtype) {
      return dtype == DType::i32 || dtype == DType::i8 || dtype == DType::u8;
    };
    const auto is_half = [](DType dtype) { return dtype == DType::f16 || dtype == DType::bf16; };
    std::string text = value.text;
    if (from != DType::f32 && !(integer(from) && integer(to))) {
      if (is_half(from)) need(quern::name(from));
      need(from == DType::bf16 ? "to_f32 bf16" : from == DType::f16 ? "to_f32 f16" : "to_f32 int");
      text = fmt::format("to_f32({})", text);
    }
    if (to == DType::f32) return {text, Code::primary};
    if (is_half(to)) need(quern::name(to));
    for (const Helper& helper : kHelpers)
      if (helper.name == fmt::format("to_{}", quern::name(to))) need(helper.name);
    return {fmt::format("to_{}({})", quern::name(to), text), Code::primary};
  }

  const Tree& tree_;
  const Binding& binding_;
  const Schedule& schedule_;
  const std::string& entry_;
  CudaShape shape_;
  Passes passes_;
  std::int64_t cols_;
  Names names_;
  std::vector<std::string> axes_, indices_;  // as written in the source
  std::string num_rows_, chunk_ = "0";
  std::vector<std::string> variables_;  // of each node, once it has one
  std::map<int, Code> inlined_;         // nodes written where they are used, in the loop at hand
  std::map<int, Code> inlined_rows_;    // the same outside loops
  std::map<int, std::string> new_values_;
  std::set<std::string_view> helpers_;
  std::set<Op> folds_;
  std::string body_;
  int indent_ = 0;
};

}  // namespace

std::string emit_cuda(const Kernel& kernel, const Binding& binding, const Schedule& schedule) {
  check_schedule(kernel, binding, schedule);
  return CudaWriter(kernel.tree(), binding, schedule, entry_name(kernel)).write();
}

}  // namespace quern::dsl
