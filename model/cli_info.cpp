#include <fmt/format.h>

#include "autotune/device_description.h"
#include "compiler/nvrtc.h"
#include "model/cli.h"
#include "model/table.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "runtime/cublaslt.h"
#include "runtime/device.h"

namespace quern::cli {
namespace {

/// What `make` returns, or the sentence of its DeviceError.
template <class F>
std::string or_problem(F make) {
  try {
    return make();
  } catch (const Error& error) {
    return fmt::format("absent: {}", error.what());
  }
}

std::string weights_text(const ModelConfig& config) {
  return config.quantization ? config.quantization->text() : std::string(name(config.dtype));
}

ordered_json model_json(const std::filesystem::path& folder, const ModelConfig& c) {
  return {{"folder", folder.string()},
          {"weights", weights_text(c)},
          {"num_layers", c.num_layers},
          {"hidden_size", c.hidden_size},
          {"intermediate_size", c.intermediate_size},
          {"num_heads", c.num_heads},
          {"num_kv_heads", c.num_kv_heads},
          {"head_dim", c.head_dim},
          {"vocab_size", c.vocab_size},
          {"max_position_embeddings", c.max_position_embeddings}};
}

void print_model(const std::filesystem::path& folder, const ModelConfig& c) {
  fmt::print("model     {}\nweights   {}\n", folder.string(), weights_text(c));
  fmt::print(
      "shape     {} layers, hidden size {}, intermediate size {}, {} heads of {}, {} for keys and "
      "values\n",
      c.num_layers, c.hidden_size, c.intermediate_size, c.num_heads, c.head_dim, c.num_kv_heads);
  fmt::print("tokens    vocabulary of {}, context of {}\n", c.vocab_size,
             c.max_position_embeddings);
}

/// Of the machine, and of what the config of a model folder says, if one is named.
void info(const Common& common, const std::string& model) {
  std::optional<ModelConfig> config;
  if (!model.empty()) config = load_config(model);
  const std::string problem = driver_problem();
  std::vector<DeviceInfo> found;
  if (problem.empty()) found = devices();
  const std::string nvrtc = or_problem([&] { return Nvrtc(common.library_dirs).version(); });
  // Loading cuBLASLt costs a second and needs a device.
  const std::string cublas = found.empty() ? "not loaded: there is no device" : or_problem([&] {
    const Context context(0);
    return CublasLt(common.library_dirs).version();
  });
  const std::string cache = common.cache ? common.cache->string() : "";
  if (common.json) {
    ordered_json list = ordered_json::array();
    for (const DeviceInfo& device : found) {
      ordered_json entry = device.fingerprint();
      entry["ordinal"] = device.ordinal;
      entry["uuid"] = device.uuid;
      entry["arch"] = device.arch().name();
      entry["memory_bytes"] = device.memory_bytes;
      entry["peak_bytes_per_s"] = device.peak_bytes_per_s();
      list.push_back(entry);
    }
    ordered_json document = {
        {"devices", list},    {"driver_problem", problem},
        {"nvrtc", nvrtc},     {"cublaslt", cublas},
        {"cache_dir", cache}, {"system_cache_dir", common.system_cache.string()}};
    if (config) document["model"] = model_json(model, *config);
    print_json(document);
    return;
  }
  if (!problem.empty()) fmt::print("no GPU: {}; models run on the CPU\n", problem);
  if (!found.empty()) {
    Table table({"device", "arch", "SMs", "L2 MB", "memory GB", "peak GB/s", "driver"});
    for (const DeviceInfo& d : found)
      table.add({fmt::format("{} {}", d.ordinal, d.name), d.arch().name(),
                 std::to_string(d.num_sms), std::to_string(d.l2_bytes >> 20),
                 fmt::format("{:.1f}", static_cast<double>(d.memory_bytes) / 1e9),
                 fmt::format("{:.0f}", d.peak_bytes_per_s() / 1e9),
                 d.driver_name.empty() ? std::to_string(d.driver_version) : d.driver_name});
    fmt::print("{}", table.text());
  }
  fmt::print("NVRTC     {}\ncuBLASLt  {}\ncache     {}\n", nvrtc, cublas,
             cache.empty() ? "none: set QUERN_CACHE, XDG_CACHE_HOME or HOME" : cache);
  if (config) print_model(model, *config);
}

/// Writes down the selected GPU for machines that do not have it.
void describe_device(const Common& common, const std::string& file) {
  const int ordinal = gpu_to_use(common, "only a GPU can be described: name one with --device");
  const std::vector<DeviceInfo> found = devices();
  if (static_cast<std::size_t>(ordinal) >= found.size())
    throw DeviceError(fmt::format("there is no GPU {}: this machine has {}, numbered from 0",
                                  ordinal, found.size()));
  const DeviceInfo& device = found[static_cast<std::size_t>(ordinal)];
  const ordered_json document = to_json(describe(device));
  if (file.empty()) {
    print_json(document);
    return;
  }
  write_file_atomically(file, document.dump(2) + "\n");
  if (common.json)
    print_json({{"file", file}, {"device", device.name}});
  else
    fmt::print("{} ({}) is described in {}\n", device.name, device.arch().name(), file);
}

struct Options {
  std::string model, describe_file;
};

}  // namespace

void add_info(CLI::App& app, Common& common) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "info", "devices, driver, libraries and cache of this machine, and a model's shape");
  command->add_option("MODEL", options->model, "model folder: say what it holds too");
  const CLI::Option* describe =
      command
          ->add_option("--describe", options->describe_file,
                       "write down the GPU for `quern compile --device-file` on another machine: "
                       "to this file, or to stdout")
          ->expected(0, 1);
  command->callback([&common, options, describe] {
    describe->count() > 0 ? describe_device(common, options->describe_file)
                          : info(common, options->model);
  });
}

}  // namespace quern::cli
