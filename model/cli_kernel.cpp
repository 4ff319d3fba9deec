#include <fmt/format.h>

#include <vector>

#include "compiler/dsl.h"
#include "compiler/nvrtc.h"
#include "model/cli.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "templates/embedded.h"

namespace quern::cli {
namespace {

struct Options {
  std::string file, emit = "cuda", arch = "sm_90a", dtype = "bf16", out;
  std::vector<std::string> bindings;  // NAME=DTYPE
  int cols = 4096;
};

dsl::Binding binding_of(const dsl::Kernel& kernel, const Options& options) {
  dsl::Binding binding;
  const auto parse = [](const std::string& text) {
    const auto dtype = parse_dtype(text);
    if (!dtype) throw InputError(fmt::format("'{}' is not a dtype", text));
    return *dtype;
  };
  for (const std::string& name : kernel.dtype_params()) binding.dtypes[name] = parse(options.dtype);
  for (const std::string& text : options.bindings) {
    const auto equals = text.find('=');
    if (equals == std::string::npos || !binding.dtypes.contains(text.substr(0, equals)))
      throw InputError(
          fmt::format("'{}' does not bind a dtype parameter of {}", text, kernel.name()));
    binding.dtypes[text.substr(0, equals)] = parse(text.substr(equals + 1));
  }
  if (!kernel.axes().empty()) binding.extents[kernel.axes().back()] = options.cols;
  return binding;
}

void emit(const Common& common, const Options& options) {
  const Arch arch = parse_arch(options.arch);
  const bool binary = options.emit == "cubin";
  if (binary && options.out.empty() && !common.json)
    throw InputError("a cubin is no text: name a file with -o");
  const std::vector<dsl::Kernel> kernels = dsl::parse(read_file(options.file), options.file);
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
    dsl::Schedule schedule;
    if (const auto reason = dsl::reject_reason(kernel, binding, schedule, arch))
      throw InputError(fmt::format("{}: {}", kernel.name(), *reason));
    const std::string source = dsl::emit_cuda(kernel, binding, schedule);
    if (options.emit == "cuda") {
      out += source;
      continue;
    }
    const Nvrtc nvrtc(common.library_dirs);
    const CompileRequest request{kernel.name(), source, dsl::entry_name(kernel), arch, {}};
    const HeaderMap headers = embedded_templates();
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
  CLI::App* command = app.add_subcommand("kernel", "compile one file of the kernel language");
  command->add_option("FILE.qk", options->file)->required();
  command->add_option("--emit", options->emit, "cuda, llvm, ptx or cubin")
      ->check(CLI::IsMember({"cuda", "llvm", "ptx", "cubin"}))
      ->capture_default_str();
  command->add_option("--arch", options->arch, "GPU architecture")->capture_default_str();
  command->add_option("--dtype", options->dtype, "of every dtype parameter")->capture_default_str();
  command->add_option("--bind", options->bindings, "NAME=DTYPE, for one parameter");
  command->add_option("--cols", options->cols, "extent of the innermost axis")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("-o,--out", options->out, "write to this file");
  command->callback([&common, options] { emit(common, *options); });
}

}  // namespace quern::cli
