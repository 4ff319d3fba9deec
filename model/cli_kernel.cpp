#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "compiler/dsl.h"
#include "compiler/nvrtc.h"
#include "model/cli.h"
#include "model/cli_rows.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "templates/embedded.h"

namespace quern::cli {
namespace {

struct Options {
  std::string file, name, emit = "cuda", arch = "sm_90a", dtype = "bf16", out;
  std::vector<std::string> bindings;       // NAME=DTYPE
  std::vector<std::string> axes, scalars;  // NAME=NUMBER
  std::int64_t rows = 0, cols = 0;         // 0: not given
  bool run = false, check = false, bench = false, force = false;
  double budget = 0;
};

constexpr std::int64_t kUsualCols = 4096;  // where nothing is run
constexpr double kMaxExtent = 0x1p40;

/// The two sides of NAME=VALUE.
std::pair<std::string, std::string> split(const std::string& text, const char* option) {
  const auto equals = text.find('=');
  if (equals == text.npos || equals == 0 || equals + 1 == text.size())
    throw InputError(fmt::format("{} '{}' should be NAME=VALUE", option, text));
  return {text.substr(0, equals), text.substr(equals + 1)};
}

double parse_number(const std::string& text, const char* option) {
  double value = 0;
  if (!CLI::detail::lexical_cast(text, value) || !std::isfinite(value))
    throw InputError(fmt::format("{}: '{}' is not a number", option, text));
  return value;
}

std::map<std::string, std::int64_t> parse_axes(const Options& options) {
  std::map<std::string, std::int64_t> out;
  const auto add = [&](const std::string& name, std::int64_t extent) {
    if (!out.emplace(name, extent).second)
      throw InputError(fmt::format("axis '{}' is given twice", name));
  };
  for (const std::string& text : options.axes) {
    const auto [name, number] = split(text, "--axis");
    const double extent = parse_number(number, "--axis");
    if (extent < 1 || extent > kMaxExtent || extent != std::floor(extent))
      throw InputError(fmt::format("--axis: '{}' is not a whole number from 1 to 2^40", number));
    add(name, static_cast<std::int64_t>(extent));
  }
  if (options.rows > 0) add("rows", options.rows);
  return out;
}

std::map<std::string, double> parse_scalars(const Options& options) {
  std::map<std::string, double> out;
  for (const std::string& text : options.scalars) {
    const auto [name, number] = split(text, "--scalar");
    if (!out.emplace(name, parse_number(number, "--scalar")).second)
      throw InputError(fmt::format("scalar '{}' is given twice", name));
  }
  return out;
}

std::map<std::string, DType> parse_dtypes(const dsl::Kernel& kernel, const Options& options) {
  const auto parse = [](const std::string& text) {
    const auto dtype = parse_dtype(text);
    if (!dtype) throw InputError(fmt::format("'{}' is not a dtype", text));
    return *dtype;
  };
  std::map<std::string, DType> out;
  const DType usual = parse(options.dtype);
  for (const std::string& name : kernel.dtype_params()) out[name] = usual;
  for (const std::string& text : options.bindings) {
    const auto equals = text.find('=');
    if (equals == std::string::npos || !out.contains(text.substr(0, equals)))
      throw InputError(
          fmt::format("'{}' does not bind a dtype parameter of {}", text, kernel.name()));
    out[text.substr(0, equals)] = parse(text.substr(equals + 1));
  }
  return out;
}

/// For --emit: axes without an extent stay arguments, but for the innermost.
dsl::Binding binding_of(const dsl::Kernel& kernel, const Options& options) {
  dsl::Binding binding{parse_dtypes(kernel, options), parse_axes(options)};
  for (const auto& [axis, extent] : binding.extents)
    if (std::find(kernel.axes().begin(), kernel.axes().end(), axis) == kernel.axes().end())
      throw InputError(fmt::format("kernel {} has no axis '{}'", kernel.name(), axis));
  if (kernel.num_iterated_axes() == 0) return binding;
  const std::string& last = kernel.axes()[static_cast<std::size_t>(kernel.num_iterated_axes() - 1)];
  const auto [found, fresh] =
      binding.extents.emplace(last, options.cols > 0 ? options.cols : kUsualCols);
  if (!fresh && options.cols > 0)
    throw InputError(fmt::format("axis '{}' is given twice", found->first));
  return binding;
}

/// Files that a kernel file uses: beside it, else shipped.
dsl::Includes includes_of(const std::string& file, const HeaderMap& templates) {
  return [file, &templates](const std::string& used) -> std::optional<std::string> {
    const auto beside = std::filesystem::path(file).parent_path() / used;
    std::error_code ignored;
    if (std::filesystem::is_regular_file(beside, ignored)) return read_file(beside);
    return dsl::includes_from(templates, "row")(used);
  };
}

/// Those that --name leaves.
std::vector<std::string> chosen(const std::vector<std::string>& names, const Options& options) {
  if (options.name.empty()) return names;
  if (std::find(names.begin(), names.end(), options.name) == names.end())
    throw InputError(fmt::format("{} has no kernel '{}'", options.file, options.name));
  return {options.name};
}

/// Extents and scalars of one kernel; each must be given.
RowValues values_of(const dsl::Kernel& kernel, const Options& options) {
  RowValues values{parse_axes(options), parse_dtypes(kernel, options), parse_scalars(options)};
  if (options.cols > 0 && !values.axes.emplace("cols", options.cols).second)
    throw InputError("axis 'cols' is given twice");
  for (const std::string& axis : kernel.axes())
    if (!values.axes.contains(axis))
      throw InputError(fmt::format(
          "kernel {} has an axis '{}' whose extent is not given: {}", kernel.name(), axis,
          axis == "rows" || axis == "cols" ? fmt::format("--{} N", axis)
                                           : fmt::format("--axis {}=N", axis)));
  for (const dsl::ScalarInfo& scalar : kernel.scalars())
    if (!values.scalars.contains(scalar.name))
      throw InputError(
          fmt::format("kernel {} has a scalar '{}' whose value is not given: --scalar {}=VALUE",
                      kernel.name(), scalar.name, scalar.name));
  return values;
}

void run(const Common& common, const Options& options) {
  const HeaderMap templates = template_files(templates_of(common));
  auto family = std::make_unique<RowFamily>();
  const auto names = chosen(
      family->add(read_file(options.file), options.file, includes_of(options.file, templates)),
      options);
  if (names.size() != 1)
    throw InputError(fmt::format("{} holds {} kernels, and one runs at a time: --name KERNEL",
                                 options.file, names.size()));
  RowRun run;
  run.kernel = names.front();
  run.values = values_of(family->kernel(run.kernel), options);
  run.problem = family->problem(run.kernel, run.values);
  run.check = options.check, run.bench = options.bench, run.force = options.force;
  run.budget = options.budget;
  if (const auto reason = family->unsupported(run.problem, known_archs().back()))
    throw InputError(fmt::format("{}: {}", run.kernel, *reason));
  if (const auto ordinal = gpu_ordinal(common.device))
    return run_on_gpu(common, *ordinal, std::move(family), run);
  if (common.device == "auto") throw DeviceError(driver_problem());
  if (options.check) throw InputError("--check holds a GPU's results against those of the CPU");
  run_on_cpu(common, *family, run);
}

void emit(const Common& common, const Options& options) {
  const Arch arch = parse_arch(options.arch);
  const bool binary = options.emit == "cubin";
  if (binary && options.out.empty() && !common.json)
    throw InputError("a cubin is no text: name a file with -o");
  const HeaderMap headers = template_files(templates_of(common));
  std::vector<dsl::Kernel> kernels =
      dsl::parse(read_file(options.file), options.file, includes_of(options.file, headers));
  std::vector<std::string> names;
  for (const dsl::Kernel& kernel : kernels) names.push_back(kernel.name());
  if (names.empty()) throw InputError(fmt::format("{} has no kernel", options.file));
  names = chosen(names, options);
  std::erase_if(kernels, [&](const dsl::Kernel& kernel) {
    return std::find(names.begin(), names.end(), kernel.name()) == names.end();
  });
  if (binary && kernels.size() != 1)
    throw InputError(fmt::format("{} holds {} kernels, and a cubin is made of one", options.file,
                                 kernels.size()));
  std::string out;
  ordered_json report = ordered_json::array();
  for (const dsl::Kernel& kernel : kernels) {
    const dsl::Binding binding = binding_of(kernel, options);
    if (options.emit == "llvm") {
      out += dsl::emit_llvm(kernel, binding);
      continue;
    }
    const dsl::Schedule schedule = dsl::default_schedule(kernel, binding);
    if (const auto reason = dsl::reject_reason(kernel, binding, schedule, arch))
      throw InputError(fmt::format("{}: {}", kernel.name(), *reason));
    const std::string source = dsl::emit_cuda(kernel, binding, schedule);
    if (options.emit == "cuda") {
      out += source;
      continue;
    }
    const Nvrtc nvrtc(common.library_dirs);
    const CompileRequest request{kernel.name(), source, dsl::entry_name(kernel), arch, {}};
    if (options.emit == "ptx") {
      out += nvrtc.compile_to_ptx(request, headers);
      continue;
    }
    const KernelImage image = nvrtc.compile(request, headers);
    out += image.cubin;
    report.push_back({{"kernel", kernel.name()},
                      {"arch", arch.name()},
                      {"registers", image.report.registers},
                      {"spill_bytes", image.report.spill_store_bytes},
                      {"compile_ms", image.compile_ms},
                      {"bytes", image.cubin.size()}});
    note("{} {}: {} registers, {} bytes spilled, {:.0f} ms\n", kernel.name(), arch.name(),
         image.report.registers, image.report.spill_store_bytes, image.compile_ms);
  }
  if (!options.out.empty()) write_file_atomically(options.out, out);
  if (common.json)
    print_json({{"file", options.file},
                {"emit", options.emit},
                {"kernels", report},
                {"out", options.out},
                {"text", binary || !options.out.empty() ? "" : out}});
  else if (options.out.empty())
    print_text(out);
}

}  // namespace

void add_kernel(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("kernel", "compile, run or measure one file of the kernel language");
  command->add_option("FILE.qk", options->file)->required();
  command->add_option("--name", options->name, "one kernel of the file");
  CLI::Option* emitted = command->add_option("--emit", options->emit, "cuda, llvm, ptx or cubin")
                             ->check(CLI::IsMember({"cuda", "llvm", "ptx", "cubin"}))
                             ->capture_default_str();
  CLI::Option* arch = command->add_option("--arch", options->arch, "GPU architecture to emit for")
                          ->capture_default_str();
  CLI::Option* out = command->add_option("-o,--out", options->out, "write to this file");
  command->add_option("--dtype", options->dtype, "of every dtype parameter")->capture_default_str();
  command->add_option("--bind", options->bindings, "NAME=DTYPE, for one parameter");
  command->add_option("--axis", options->axes, "NAME=N, extent of an axis")
      ->allow_extra_args(false);
  command->add_option("--rows", options->rows, "--axis rows=N")->check(CLI::Range(1L, 1L << 40));
  command
      ->add_option("--cols", options->cols,
                   "--axis cols=N; with --emit, of the innermost axis (default 4096)")
      ->check(CLI::Range(1L, 1L << 24));
  command->add_option("--scalar", options->scalars, "NAME=VALUE, of a scalar")
      ->allow_extra_args(false);
  const auto run_flag = [&](const char* name, bool& value, const char* help) {
    command->add_flag(name, value, help)->excludes(emitted)->excludes(arch)->excludes(out);
  };
  run_flag("--run", options->run, "tune it for this shape and run it");
  run_flag("--check", options->check, "and compare its results with those of the LLVM build");
  run_flag("--bench", options->bench, "and measure it against a copy");
  run_flag("--force", options->force, "and measure again what has been measured");
  command->add_option("--budget", options->budget, "seconds to tune; 0 = until done")
      ->check(number_between(0, 1e6));
  command->callback([&common, options] {
    const bool runs = options->run || options->check || options->bench || options->force;
    if (!runs && !options->scalars.empty())
      throw InputError("scalars are arguments, which --run gives values: nothing is run");
    runs ? run(common, *options) : emit(common, *options);
  });
}

}  // namespace quern::cli
