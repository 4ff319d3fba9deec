#include "model/cli.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <system_error>

#include "cache/image_store.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"
#include "runtime/driver.h"

namespace quern::cli {
namespace fs = std::filesystem;
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Reads the environment, once.
void read_environment(Common& common) {
  std::error_code ignored;
  common.binary = fs::read_symlink("/proc/self/exe", ignored);
  // Not the path of the binary, which an upgrade may replace while this process runs.
  common.worker_command = {"/proc/self/exe", "worker"};
  common.terminal = isatty(STDERR_FILENO) == 1;
  if (const char* home = std::getenv("CUDA_HOME"))
    common.library_dirs = {fmt::format("{}/lib64", home), fmt::format("{}/lib", home)};
  const char* system_cache = std::getenv("QUERN_SYSTEM_CACHE");
  common.system_cache = system_cache ? system_cache : "/var/cache/quern";
  const char* cache_max = std::getenv("QUERN_CACHE_MAX");
  common.cache_max = cache_max && *cache_max ? cache_max : "4G";
  try {
    common.cache = cache_folder(std::getenv("QUERN_CACHE"), std::getenv("XDG_CACHE_HOME"),
                                std::getenv("HOME"));
  } catch (const InputError&) {
    // Only a command that needs the cache complains.
  }
}

int report(std::string_view sentence, int code) {
  note("quern: {}\n", sentence);
  return code;
}

[[noreturn]] void fail_output() {
  throw Error(fmt::format("cannot write to stdout: {}", std::strerror(errno)));
}

std::string device_problem(const std::string& device) {
  try {
    gpu_ordinal(device);
    return {};
  } catch (const InputError& error) {
    return error.what();
  }
}

/// The parser's sentence, or a better one where a command is missing or does not exist.
std::string usage_problem(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  std::string so_far = "quern";
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
    so_far += " " + command->get_name();
  }
  const bool is_group = !command->get_subcommands([](const CLI::App*) { return true; }).empty();
  if (!is_group || dynamic_cast<const CLI::RequiredError*>(&error) == nullptr) return error.what();
  const auto words = app.remaining(true);
  if (words.empty()) return fmt::format("{} needs a command: {} --help lists them", so_far, so_far);
  return fmt::format("'{} {}' is no command: {} --help lists them", so_far, words.front(), so_far);
}

/// Keeps the cache's images within QUERN_CACHE_MAX. Looks only where a command has added some, of
/// which the time of their folder tells.
class CacheLimit {
 public:
  explicit CacheLimit(const Common& common) : common_(common), before_(last_change()) {}
  void apply() const {
    if (!common_.cache || last_change() == before_) return;
    const auto trimmed =
        ImageStore(*common_.cache).trim(parse_bytes(common_.cache_max, "QUERN_CACHE_MAX"));
    if (trimmed.entries > 0 && common_.verbose)
      note("{} images that were not used for long left the cache ({:.1f} MB)\n", trimmed.entries,
           static_cast<double>(trimmed.bytes) / 1e6);
  }

 private:
  fs::file_time_type last_change() const {
    std::error_code ignored;
    if (!common_.cache) return {};
    return fs::last_write_time(*common_.cache / "images", ignored);
  }

  const Common& common_;
  fs::file_time_type before_;
};

int run(int argc, char** argv) {
  Common common;
  read_environment(common);
  const CacheLimit limit(common);
  set_log_sink([](LogLevel level, std::string_view message) {
    note("quern: {}{}\n", level == LogLevel::warning ? "warning: " : "", message);
  });
  CLI::App app(
      "Compiles, tunes and caches GPU kernels for this machine and runs Llama models on them.",
      "quern");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--device", common.device, "GPU number, or cpu (default: GPU 0, else cpu)")
      ->check(device_problem);
  app.add_flag("--json", common.json, "print one JSON document on stdout");
  app.add_flag("-v,--verbose", common.verbose, "say which kernel every node got");
  app.add_flag("--strict", common.strict, "refuse to run on kernels that were never tuned");
  app.add_option("--templates", common.templates,
                 "folder of templates to use instead of the built-in ones")
      ->check(CLI::ExistingDirectory);
  app.add_option("--context", common.context,
                 "tokens that a sequence may hold (default: the model's)")
      ->check(CLI::Range(1, 1 << 26));
  add_info(app, common);
  add_tune(app, common);
  add_run(app, common);
  add_demo(app, common);
  add_logits(app, common);
  add_ppl(app, common);
  add_eval(app, common);
  add_bench(app, common);
  add_bench_kernels(app, common);
  add_compile(app, common);
  add_kernel(app, common);
  add_cache(app, common);
  add_worker(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) return report(usage_problem(app, error), kExitInput);
    app.exit(error);  // --help
  }
  limit.apply();
  if (std::fflush(stdout) != 0) fail_output();
  return kExitDone;
}

}  // namespace

fs::path model_folder(const Common& common, const std::string& named) {
  std::error_code ignored;
  if (!named.empty()) {
    if (!fs::is_directory(named, ignored))
      throw InputError(fmt::format("{} is not a model folder", named));
    return named;
  }
  const fs::path beside = common.binary.parent_path();
  for (const fs::path& candidate : {beside / "../share/quern/tiny-llama3", beside / "tiny-llama3",
                                    beside / "../model/bundled/tiny-llama3",
                                    fs::path(QUERN_SOURCE_DIR) / "model/bundled/tiny-llama3"})
    if (fs::exists(candidate / "config.json", ignored)) return candidate.lexically_normal();
  throw InputError("the bundled model was not found beside the binary: name a model folder");
}

int gpu_to_use(const Common& common, const std::string& refusal) {
  const auto ordinal = gpu_ordinal(common.device);
  if (ordinal) return *ordinal;
  if (common.device == "auto") throw DeviceError(driver_problem());
  throw InputError(refusal);
}

fs::path cache_root(const Common& common) {
  if (!common.cache)
    throw InputError("there is no place for the cache: set QUERN_CACHE, XDG_CACHE_HOME or HOME");
  parse_bytes(common.cache_max, "QUERN_CACHE_MAX");
  return *common.cache;
}

// CLI::AsSizeValue takes -1 for a very large size.
std::uint64_t parse_bytes(std::string_view text, std::string_view what) {
  constexpr std::string_view kUnits = "KMGT";
  std::uint64_t bytes = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, bytes);
  bool good = error == std::errc();
  int shift = 0;
  if (good && rest != end) {
    const std::size_t unit = kUnits.find(*rest);
    good = unit != kUnits.npos && rest + 1 == end;
    shift = good ? 10 * (static_cast<int>(unit) + 1) : 0;
  }
  if (!good || bytes > std::numeric_limits<std::uint64_t>::max() >> shift)
    throw InputError(
        fmt::format("{} '{}' is not a number of bytes like 4096, 512M or 4G", what, text));
  return bytes << shift;
}

std::optional<fs::path> templates_of(const Common& common) {
  if (common.templates.empty()) return std::nullopt;
  return common.templates;
}

EngineOptions engine_options(const Common& common, const std::string& model) {
  EngineOptions options;
  options.model = model_folder(common, model);
  options.device = common.device;
  if (gpu_ordinal(common.device)) options.cache = cache_root(common);  // the CPU keeps none
  options.system_cache = common.system_cache;
  options.library_dirs = common.library_dirs;
  options.templates = templates_of(common);
  options.max_context = common.context;
  options.strict = common.strict;
  options.worker_command = common.worker_command;
  return options;
}

CLI::Validator number_between(double low, double high) {
  return CLI::Validator(
      [low, high](const std::string& text) {
        double value = 0;
        const bool is_number = CLI::detail::lexical_cast(text, value);
        return is_number && value >= low && value <= high
                   ? std::string()
                   : fmt::format("'{}' is not a number from {} to {}", text, low, high);
      },
      fmt::format("{} to {}", low, high));
}

void print_json(const ordered_json& document) {
  print_text(document.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n");
}

void print_text(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    fail_output();
}

void note_text(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

// A log wants no lines of what is over at once.
ProgressLine::ProgressLine(const Common& common)
    : terminal_(common.terminal), last_(common.terminal ? 0 : seconds_now()) {}

std::size_t ProgressLine::width() {
  winsize window{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1;
  return known ? window.ws_col - 1U : 79U;  // text in the last column would wrap
}

void ProgressLine::update(const std::string& text) {
  const double now = seconds_now();
  if (!terminal_) {
    if (now - last_ < 5) return;
    note("{}\n", text);
  } else {
    if (now - last_ < 0.1) return;
    const std::string_view cut = std::string_view(text).substr(0, width());
    note("\r{:<{}}", cut, std::min(shown_, width()));
    shown_ = cut.size();
  }
  last_ = now;
}

void ProgressLine::clear() {
  if (terminal_ && shown_ > 0) note("\r{:<{}}\r", "", std::min(shown_, width()));
  shown_ = 0;
}

ProgressLine::~ProgressLine() { clear(); }

}  // namespace quern::cli

int main(int argc, char** argv) {
  using namespace quern;
  try {
    return cli::run(argc, argv);
  } catch (const CompileError& error) {
    if (!error.log().empty()) cli::note("{}\n", error.log());
    return cli::report(error.what(), error.exit_code());
  } catch (const Error& error) {
    return cli::report(error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return cli::report("there is not enough memory", kExitFault);
  } catch (const std::system_error& error) {
    // fmt::print throws it where the output cannot be written.
    if (std::ferror(stdout))
      return cli::report(fmt::format("cannot write to stdout: {}", error.code().message()),
                         kExitFault);
    return cli::report(fmt::format("internal fault: {}", error.what()), kExitFault);
  } catch (const std::exception& error) {
    return cli::report(fmt::format("internal fault: {}", error.what()), kExitFault);
  }
}
