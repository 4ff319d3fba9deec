#pragma once
// The `quern` command's own parts: options that several commands share, and one function a command.
// Everything that talks to people is here; the libraries below do not print.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/engine.h"
#include "runtime/base/json.h"

namespace quern::cli {

/// Options of every command, and what the environment said when the program started.
struct Common {
  std::string device = "auto";  // a GPU's number, "cpu", or "auto": GPU 0 where there is one
  bool json = false;
  bool verbose = false;
  bool strict = false;
  std::string templates;
  int context = 0;                             // tokens a sequence may hold; 0 = the model's
  std::filesystem::path binary;                // of this program
  std::optional<std::filesystem::path> cache;  // unset: no variable names a place
  std::filesystem::path system_cache;          // only ever read; empty = none
  std::string cache_max;                       // QUERN_CACHE_MAX: bytes that images may take
  std::vector<std::string> library_dirs;       // from CUDA_HOME
  std::vector<std::string> worker_command;     // this program, as a worker; see cli_worker.cpp
  bool terminal = false;                       // stderr is one
};

/// The model folder that the user named, else the bundled one, found beside the binary, in the
/// source tree that it was built from, or where it was installed. Throws InputError.
std::filesystem::path model_folder(const Common& common, const std::string& named);
/// Throws InputError, also where a GPU is asked for and there is no place for its cache.
EngineOptions engine_options(const Common& common, const std::string& model);
/// The GPU's number. Throws DeviceError where none is there and none was named, InputError with
/// `refusal` where the CPU was named.
int gpu_to_use(const Common& common, const std::string& refusal);
/// Cache folder; throws InputError if there is none, or if QUERN_CACHE_MAX is no size.
std::filesystem::path cache_root(const Common& common);
/// "4096", "512M", "4G": bytes, K to T being powers of 1024. Throws InputError naming `what` for
/// other text.
std::uint64_t parse_bytes(std::string_view text, std::string_view what);
/// Folder of templates that --templates names, if it was given.
std::optional<std::filesystem::path> templates_of(const Common& common);

/// Text on stdout, at once. Throws Error if it cannot be written.
void print_text(std::string_view text);
/// Text on stderr; lost if stderr is closed, for there is nobody to tell.
void note_text(std::string_view text);
template <class... Args>
void note(fmt::format_string<Args...> format, Args&&... args) {
  note_text(fmt::format(format, std::forward<Args>(args)...));
}
/// Refuses what is not a number from low to high. (CLI::Range lets NaN pass.)
CLI::Validator number_between(double low, double high);
/// One JSON document on stdout.
void print_json(const ordered_json& document);
/// A line on stderr that the next one overwrites on a terminal, ten times a second at most and cut
/// to its width; elsewhere plain lines, one every few seconds.
class ProgressLine {
 public:
  explicit ProgressLine(const Common& common);
  ~ProgressLine();
  void update(const std::string& text);
  /// The columns that a line may have now; the user may have resized the window.
  static std::size_t width();
  /// Takes the line away, before other output.
  void clear();

 private:
  bool terminal_;
  std::size_t shown_ = 0;
  double last_;  // when a line was shown, in seconds
};

/// Each adds its subcommand to `app`; the callback does the work.
void add_info(CLI::App& app, Common& common);
void add_tune(CLI::App& app, Common& common);
void add_run(CLI::App& app, Common& common);
void add_demo(CLI::App& app, Common& common);
void add_logits(CLI::App& app, Common& common);
void add_ppl(CLI::App& app, Common& common);
void add_eval(CLI::App& app, Common& common);
void add_bench(CLI::App& app, Common& common);
void add_bench_kernels(CLI::App& app, Common& common);
void add_compile(CLI::App& app, Common& common);
void add_kernel(CLI::App& app, Common& common);
void add_cache(CLI::App& app, Common& common);
/// Hidden: this program's own worker processes.
void add_worker(CLI::App& app);

}  // namespace quern::cli
