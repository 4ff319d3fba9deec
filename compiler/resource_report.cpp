#include "compiler/resource_report.h"

#include <charconv>

#include "runtime/base/error.h"

namespace quern {
namespace {

std::string_view after(std::string_view line, std::string_view words) {
  const std::size_t at = line.find(words);
  return at == std::string_view::npos ? std::string_view{} : line.substr(at + words.size());
}

/// The number that stands right before `words`; 0 if there is none.
int number_before(std::string_view line, std::string_view words) {
  const std::size_t end = line.find(words);
  if (end == std::string_view::npos) return 0;
  std::size_t begin = end;
  while (begin > 0 && line[begin - 1] >= '0' && line[begin - 1] <= '9') --begin;
  int value = 0;
  std::from_chars(line.data() + begin, line.data() + end, value);
  return value;
}

/// "k" of "'k' for 'sm_90a'" and of "k".
std::string_view function_name(std::string_view text) {
  if (text.starts_with('\'')) return text.substr(1, text.find('\'', 1) - 1);
  return text.substr(0, text.find_first_of(" \r"));
}

/// ptxas notes C7508 (setmaxnreg ignored) and C7510 to C7519 (wgmma serialised).
bool has_pipeline_warning(std::string_view log) {
  return log.find("(C7508)") != std::string_view::npos ||
         log.find("(C751") != std::string_view::npos;
}

}  // namespace

ResourceReport parse_resource_report(std::string_view log, std::string_view entry) {
  ResourceReport report;
  report.pipeline_warning = has_pipeline_warning(log);
  bool in_kernel = false, in_properties = false;
  while (!log.empty()) {
    const std::size_t end = log.find('\n');
    const std::string_view line = log.substr(0, end);
    log = end == std::string_view::npos ? std::string_view{} : log.substr(end + 1);
    if (const auto kernel = after(line, "Compiling entry function "); !kernel.empty()) {
      in_kernel = function_name(kernel) == entry;
      in_properties = false;
    } else if (const auto function = after(line, "Function properties for "); !function.empty()) {
      in_properties = function_name(function) == entry;
    } else if (in_properties && line.find("bytes stack frame") != std::string_view::npos) {
      report.stack_bytes = number_before(line, " bytes stack frame");
      report.spill_store_bytes = number_before(line, " bytes spill stores");
      report.spill_load_bytes = number_before(line, " bytes spill loads");
      in_properties = false;
    } else if (in_kernel && line.find("Used ") != std::string_view::npos) {
      report.registers = number_before(line, " registers");
      report.static_smem_bytes = number_before(line, " bytes smem");
    }
  }
  return report;
}

ordered_json to_json(const ResourceReport& report) {
  return {{"registers", report.registers},
          {"spill_store_bytes", report.spill_store_bytes},
          {"spill_load_bytes", report.spill_load_bytes},
          {"stack_bytes", report.stack_bytes},
          {"static_smem_bytes", report.static_smem_bytes},
          {"pipeline_warning", report.pipeline_warning}};
}

ResourceReport resource_report_from_json(const json& value) {
  try {
    ResourceReport report;
    value.at("registers").get_to(report.registers);
    value.at("spill_store_bytes").get_to(report.spill_store_bytes);
    value.at("spill_load_bytes").get_to(report.spill_load_bytes);
    value.at("stack_bytes").get_to(report.stack_bytes);
    value.at("static_smem_bytes").get_to(report.static_smem_bytes);
    value.at("pipeline_warning").get_to(report.pipeline_warning);
    return report;
  } catch (const json::exception&) {
    throw InputError("the resource report of a stored kernel is malformed");
  }
}

}  // namespace quern
