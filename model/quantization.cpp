#include "model/quantization.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/base/error.h"

namespace quern {
namespace {

constexpr std::int64_t kMaxGroup = 1 << 20;

[[noreturn]] void refuse(const JsonReader& in, const char* key, const std::string& value,
                         const char* supported) {
  throw InputError(
      fmt::format("\"{}\" in {} is {}, but only {} supported", key, in.where(), value, supported));
}

std::string quoted(const std::string& text) { return fmt::format("\"{}\"", text); }

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

/// Strings of a list, or of a list of lists.
void add_names(const JsonReader& in, const char* key, const json& list,
               std::vector<std::string>& out) {
  for (const json& entry : list) {
    if (entry.is_array()) {
      add_names(in, key, entry, out);
    } else if (entry.is_string() && !entry.get_ref<const std::string&>().empty()) {
      out.push_back(entry.get<std::string>());
    } else {
      throw InputError(fmt::format("\"{}\" in {} must list names of modules", key, in.where()));
    }
  }
}

std::vector<std::string> names_or_none(const JsonReader& in, const char* key) {
  std::vector<std::string> out;
  if (in.has(key)) add_names(in, key, in.array(key), out);
  return out;
}

void parse_awq(const JsonReader& in, Quantization& out) {
  out.method = QuantMethod::awq;
  const std::string version = in.optional_text("version").value_or("gemm");
  if (lower(version) != "gemm") refuse(in, "version", quoted(version), "\"gemm\" is");
  if (out.bits != 4) refuse(in, "bits", std::to_string(out.bits), "4 bits of AWQ are");
  if (!in.boolean_or("zero_point", true))
    refuse(in, "zero_point", "false", "AWQ with zero points is");
}

void parse_gptq(const JsonReader& in, Quantization& out) {
  out.method = QuantMethod::gptq;
  if (out.bits != 4 && out.bits != 8)
    refuse(in, "bits", std::to_string(out.bits), "4 and 8 bits of GPTQ are");
  const std::string format = in.optional_text("checkpoint_format").value_or("gptq");
  if (format != "gptq" && format != "gptq_v2")
    refuse(in, "checkpoint_format", quoted(format), "\"gptq\" and \"gptq_v2\" are");
  out.zeros_minus_one = format == "gptq";
  out.zero_points = !in.boolean_or("sym", true);
  out.act_order = in.boolean_or("desc_act", false);
  out.lm_head = in.boolean_or("lm_head", false);
  out.modules_to_convert = names_or_none(in, "modules_in_block_to_quantize");
  if (in.boolean_or("is_marlin_format", false))
    refuse(in, "is_marlin_format", "true", "the ordinary packing is");
  // Other widths for some modules: {"pattern": {"bits": ...}}.
  if (in.has("dynamic") && !in.object("dynamic").empty())
    refuse(in, "dynamic", "not empty", "one setting for all modules is");
}

}  // namespace

bool Quantization::applies_to(std::string_view module) const {
  const auto within = [&](const std::string& name) { return module.find(name) != module.npos; };
  if (std::ranges::any_of(modules_to_not_convert, within)) return false;
  if (module == "lm_head") return lm_head;
  const auto at_end = [&](const std::string& name) { return module.ends_with(name); };
  return modules_to_convert.empty() || std::ranges::any_of(modules_to_convert, at_end);
}

std::string Quantization::text() const {
  std::string out = fmt::format(
      "{}, {} bits, {}", method == QuantMethod::awq ? "AWQ" : "GPTQ", bits,
      group_size > 0 ? fmt::format("group {}", group_size) : std::string("per channel"));
  if (!zero_points) out += ", symmetric";
  if (act_order) out += ", act-order";
  return out;
}

Quantization parse_quantization(const JsonReader& in) {
  const std::string method = in.text("quant_method");
  if (method != "awq" && method != "gptq")
    refuse(in, "quant_method", quoted(method), "\"awq\" and \"gptq\" are");
  Quantization out;
  out.bits = static_cast<int>(method == "awq" ? in.integer_or("bits", 4, 1, 16)
                                              : in.integer("bits", 1, 16));
  out.group_size = in.integer_or("group_size", 128, -1, kMaxGroup);
  constexpr std::int64_t sizes[] = {-1, 32, 64, 128};
  if (std::ranges::find(sizes, out.group_size) == std::end(sizes))
    refuse(in, "group_size", std::to_string(out.group_size), "32, 64, 128 and -1 are");
  out.modules_to_not_convert = names_or_none(in, "modules_to_not_convert");
  method == "awq" ? parse_awq(in, out) : parse_gptq(in, out);
  return out;
}

}  // namespace quern
