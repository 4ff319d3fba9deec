#include "model/cli.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>

#include "cache/image_store.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

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
  common.terminal = isatty(STDERR_FILENO) == 1;
  if (const char* home = std::getenv("CUDA_HOME"))
    common.library_dirs = {fmt::format("{}/lib64", home), fmt::format("{}/lib", home)};
  try {
    common.cache =
        cache_folder(std::getenv("QUERN_CACHE"), std::getenv("XDG_CACHE_HOME"), std::getenv("HOME"));
  } catch (const InputError&) {
    // Only a command that needs the cache complains.
  }
}

int report(const char* sentence, int code) {
  fmt::print(stderr, "quern: {}\n", sentence);
  return code;
}

int run(int argc, char** argv) {
  Common common;
  read_environment(common);
  set_log_sink([](LogLevel level, std::string_view message) {
    fmt::print(stderr, "quern: {}{}\n", level == LogLevel::warning ? "warning: " : "", message);
  });
  CLI::App app("Compiles, tunes and caches GPU kernels for this machine and runs Llama models on them.",
               "quern");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--device", common.device, "GPU number, or cpu (default: GPU 0, else cpu)");
  app.add_flag("--json", common.json, "print one JSON document on stdout");
  app.add_flag("-v,--verbose", common.verbose, "say which kernel every node got");
  app.add_flag("--strict", common.strict, "refuse to run on kernels that were never tuned");
  app.add_option("--templates", common.templates, "folder of templates to use instead of the built-in ones");
  app.add_option("--context", common.context, "tokens that a sequence may hold (default: the model's)")
      ->check(CLI::Range(1, 1 << 26));
  add_info(app, common);
  add_tune(app, common);
  add_run(app, common);
  add_demo(app, common);
  add_logits(app, common);
  add_ppl(app, common);
  add_eval(app, common);
  add_bench(app, common);
  add_compile(app, common);
  add_kernel(app, common);
  add_cache(app, common);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    return report(error.what(), kExitInput);
  }
  return kExitDone;
}

}  // namespace

fs::path model_folder(const Common& common, const std::string& named) {
  if (!named.empty()) {
    if (!fs::is_directory(named)) throw InputError(fmt::format("{} is not a model folder", named));
    return named;
  }
  const fs::path beside = common.binary.parent_path();
  for (const fs::path& candidate :
       {beside / "../share/quern/tiny-llama3", beside / "tiny-llama3",
        beside / "../model/bundled/tiny-llama3", fs::path(QUERN_SOURCE_DIR) / "model/bundled/tiny-llama3"})
    if (fs::exists(candidate / "config.json")) return candidate.lexically_normal();
  throw InputError("the bundled model was not found beside the binary: name a model folder");
}

fs::path cache_root(const Common& common) {
  if (!common.cache)
    throw InputError("there is no place for the cache: set QUERN_CACHE, XDG_CACHE_HOME or HOME");
  return *common.cache;
}

EngineOptions engine_options(const Common& common, const std::string& model) {
  EngineOptions options;
  options.model = model_folder(common, model);
  options.device = common.device;
  options.cache = cache_root(common);
  options.library_dirs = common.library_dirs;
  if (!common.templates.empty()) options.templates = common.templates;
  options.max_context = common.context;
  options.strict = common.strict;
  return options;
}

void print_json(const ordered_json& document) {
  fmt::print("{}\n", document.dump(2, ' ', false, ordered_json::error_handler_t::replace));
}

void ProgressLine::update(const std::string& text) {
  const double now = seconds_now();
  if (!terminal_) {
    if (now - last_ < 5) return;
    fmt::print(stderr, "{}\n", text);
  } else {
    if (now - last_ < 0.05) return;
    fmt::print(stderr, "\r{:<{}}", text, shown_);
    std::fflush(stderr);
    shown_ = text.size();
  }
  last_ = now;
}

void ProgressLine::clear() {
  if (terminal_ && shown_ > 0) fmt::print(stderr, "\r{:<{}}\r", "", shown_);
  shown_ = 0;
}

ProgressLine::~ProgressLine() { clear(); }

}  // namespace quern::cli

int main(int argc, char** argv) {
  using namespace quern;
  try {
    return cli::run(argc, argv);
  } catch (const CompileError& error) {
    if (!error.log().empty()) fmt::print(stderr, "{}\n", error.log());
    return cli::report(error.what(), error.exit_code());
  } catch (const Error& error) {
    return cli::report(error.what(), error.exit_code());
  } catch (const std::bad_alloc&) {
    return cli::report("there is not enough memory", kExitFault);
  } catch (const std::exception& error) {
    return cli::report(fmt::format("internal fault: {}", error.what()).c_str(), kExitFault);
  }
}
