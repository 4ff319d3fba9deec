#include "model/cli_cache.h"

#include <fmt/format.h>

#include <chrono>
#include <limits>
#include <memory>

#include "cache/image_store.h"
#include "cache/system_cache.h"
#include "templates/embedded.h"

namespace quern::cli {
namespace {

void show_paths(const Common& common) {
  const std::string own = cache_root(common).string(), system = common.system_cache.string();
  std::string state = "only read";
  std::error_code ignored;
  if (const auto problem = system_cache_problem(common.system_cache))
    state = *problem;
  else if (system.empty() || !std::filesystem::exists(common.system_cache, ignored))
    state = "absent";
  if (common.json)
    print_json({{"path", own}, {"system_path", system}, {"system_state", state}});
  else
    fmt::print("{}\n{} (system: {})\n", own, system.empty() ? "none" : system, state);
}

void add_prune(CLI::App& cache, Common& common) {
  struct Options {
    double days = 30;
    std::string max_bytes;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* prune = cache.add_subcommand(
      "prune",
      "remove damaged and unused images; the size of the rest is also kept within "
      "$QUERN_CACHE_MAX (4G) after every command that compiles");
  prune->add_option("--days", options->days, "unused for at least this many days")
      ->check(number_between(0, 36500))
      ->capture_default_str();
  prune->add_option("--max-bytes", options->max_bytes,
                    "then remove those unused longest until the rest fits: 512M, 4G");
  prune->callback([&common, options] {
    auto max_bytes = std::numeric_limits<std::uintmax_t>::max();
    if (!options->max_bytes.empty()) max_bytes = parse_bytes(options->max_bytes, "--max-bytes");
    ImageStore images(cache_root(common));
    const auto pruned = images.prune(
        std::chrono::seconds(static_cast<std::int64_t>(options->days * 86400)), max_bytes);
    if (common.json)
      print_json({{"removed", pruned.entries}, {"bytes", pruned.bytes}});
    else
      fmt::print("removed {} images ({:.1f} MB)\n", pruned.entries,
                 static_cast<double>(pruned.bytes) / 1e6);
  });
}

}  // namespace

FamilyRegistry families_of(const Common& common) {
  return FamilyRegistry::shipped(template_files(templates_of(common)));
}

std::string device_name(const ordered_json& fingerprint) {
  const auto name = fingerprint.find("name");
  return name != fingerprint.end() && name->is_string() ? name->get<std::string>() : "?";
}

void add_cache(CLI::App& app, Common& common) {
  CLI::App* cache = app.add_subcommand("cache", "look at, check, carry and trim the cache");
  cache->require_subcommand(1);
  cache
      ->add_subcommand("path",
                       "where the cache is: the user's own ($QUERN_CACHE), and the system's "
                       "($QUERN_SYSTEM_CACHE), which is only read")
      ->callback([&common] { show_paths(common); });
  add_cache_list(*cache, common);
  add_cache_verify(*cache, common);
  add_prune(*cache, common);
  add_cache_exchange(*cache, common);
}

}  // namespace quern::cli
