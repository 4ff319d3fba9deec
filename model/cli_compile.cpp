#include <fmt/format.h>

#include <algorithm>

#include "autotune/build_ahead.h"
#include "autotune/device_description.h"
#include "model/cli.h"
#include "model/cli_tune.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "templates/embedded.h"

namespace quern::cli {
namespace {

struct Options {
  std::string model;
  std::vector<std::string> archs, device_files;
  std::vector<int> batches = {1, 16};
  std::vector<int> prompts = {512};
  bool all_candidates = false;
};

struct NamedTarget {
  std::string name;
  BuildTarget target;
};

/// Throws InputError if one of them is unknown or malformed.
std::vector<NamedTarget> targets_of(const Options& options) {
  if (options.archs.empty() && options.device_files.empty())
    throw InputError("name what to compile for with --arch or --device-file");
  std::vector<NamedTarget> targets;
  for (const std::string& name : options.archs) {
    const Arch arch = parse_arch(name);
    targets.push_back({arch.name(), {arch, {}}});
  }
  for (const std::string& file : options.device_files) {
    try {
      DeviceDescription device = parse_device_description(read_file(file));
      std::string name = device.fingerprint.at("name").get<std::string>();
      targets.push_back({std::move(name), {device.arch, std::move(device.fingerprint)}});
    } catch (const InputError& error) {
      throw InputError(fmt::format("{}: {}", file, error.what()));
    }
  }
  return targets;
}

/// Builds the images that a model's defaults and records need, for GPUs that need not be here.
void run_compile(const Common& common, const Options& options) {
  const auto targets = targets_of(options);  // all of them known before the first is compiled for
  const auto folder = model_folder(common, options.model);
  const ModelConfig config = load_config(folder);
  const FamilyRegistry families = FamilyRegistry::shipped(template_files(templates_of(common)));
  const Nvrtc nvrtc(common.library_dirs);
  ImageStore images(cache_root(common), common.system_cache);
  const auto requests =
      requests_of(config, layout_of(folder, config), options.batches, options.prompts);
  ProgressLine line(common);
  BuildReport all;
  for (const NamedTarget& to : targets) {
    BuildOptions build;
    build.all_candidates = options.all_candidates;
    build.farm.worker_command = compile_worker_command(common.worker_command);
    build.progress = [&](std::size_t done, std::size_t total) {
      line.update(fmt::format("compiling for {}: {}/{}", to.name, done, total));
    };
    const BuildReport one = build_ahead(families, nvrtc, images, requests, to.target, build);
    if (one.unsupported > 0) throw InputError(one.failed.front());
    all.images += one.images;
    all.compiled += one.compiled;
    all.failed.insert(all.failed.end(), one.failed.begin(), one.failed.end());
  }
  line.clear();
  if (common.json)
    print_json({{"images", all.images},
                {"compiled", all.compiled},
                {"failed", all.failed.size()},
                {"failures", all.failed}});
  else
    fmt::print("{} images ready ({} compiled now), {} failed\n", all.images, all.compiled,
               all.failed.size());
  if (!all.failed.empty()) throw Error(all.failed.front());
}

}  // namespace

void add_compile(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("compile", "compile a model's kernels for GPUs that need not be here");
  command->add_option("MODEL", options->model, "model folder (default: the bundled model)");
  command->add_option("--arch", options->archs, "sm_80,sm_90a,...: a usual product of each")
      ->delimiter(',')
      ->allow_extra_args(false);
  command
      ->add_option("--device-file", options->device_files,
                   "a GPU as `quern info --describe` wrote it down; may be repeated")
      ->allow_extra_args(false);
  command->add_flag("--all-candidates", options->all_candidates,
                    "everything that a tuner there would try, not only what would run");
  command->add_option("--batch", options->batches, "batch sizes")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--prompt", options->prompts, "prompt lengths")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->callback([&common, options] { run_compile(common, *options); });
}

}  // namespace quern::cli
