#include <fmt/format.h>

#include "autotune/import.h"
#include "autotune/registry.h"
#include "cache/image_store.h"
#include "cache/record_store.h"
#include "cache/system_cache.h"
#include "model/cli.h"
#include "model/table.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "templates/embedded.h"

namespace quern::cli {
namespace {

FamilyRegistry families_of(const Common& common) {
  return FamilyRegistry::shipped(template_files(templates_of(common)));
}

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

void list(const Common& common) {
  std::size_t damaged = 0;
  const auto records = all_records(cache_root(common), &damaged);
  if (common.json) {
    ordered_json document = export_document(records);
    document["damaged_lines"] = damaged;
    print_json(document);
    return;
  }
  Table table({"problem", "config", "device", "us", "default us", "gain", "measured"});
  for (const TuningRecord& r : records)
    table.add({r.family + " " + to_text(r.problem), to_text(r.config),
               r.fingerprint.value("name", "?"), fmt::format("{:.1f}", r.median_us),
               fmt::format("{:.1f}", r.default_us),
               r.median_us > 0 ? fmt::format("{:.2f}x", r.default_us / r.median_us) : "-",
               r.imported ? "elsewhere" : r.measured_at});
  fmt::print("{}{} records, {} damaged lines\n", table.text(), records.size(), damaged);
}

void verify(const Common& common) {
  ImageStore images(cache_root(common));
  std::size_t intact = 0, bytes = 0;
  std::vector<std::string> broken;
  for (const auto& entry : images.verify()) {
    bytes += entry.bytes;
    if (entry.intact)
      ++intact;
    else
      broken.push_back(entry.key);
  }
  std::size_t damaged_lines = 0;
  const auto records = all_records(cache_root(common), &damaged_lines);
  if (common.json) {
    print_json({{"images", intact},
                {"damaged_images", broken},
                {"bytes", bytes},
                {"records", records.size()},
                {"damaged_lines", damaged_lines}});
    return;
  }
  for (const std::string& key : broken)
    fmt::print("damaged image {}: it will be recompiled\n", key);
  fmt::print("{} images intact ({:.1f} MB), {} damaged; {} tuning records, {} damaged lines\n",
             intact, static_cast<double>(bytes) / 1e6, broken.size(), records.size(),
             damaged_lines);
}

}  // namespace

void add_cache(CLI::App& app, Common& common) {
  CLI::App* cache = app.add_subcommand("cache", "look at, check, carry and trim the cache");
  cache->require_subcommand(1);
  cache
      ->add_subcommand("path",
                       "where the cache is: the user's own ($QUERN_CACHE), and the system's "
                       "($QUERN_SYSTEM_CACHE), which is only read")
      ->callback([&common] { show_paths(common); });
  cache->add_subcommand("ls", "tuning records")->callback([&common] { list(common); });
  cache->add_subcommand("verify", "check every image and record")->callback([&common] {
    verify(common);
  });

  struct Options {
    std::string file;
    double days = 30;
    std::string max_bytes;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* prune = cache->add_subcommand(
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

  CLI::App* export_command =
      cache->add_subcommand("export", "write all tuning records to one file");
  export_command->add_option("FILE", options->file)->required();
  export_command->callback([&common, options] {
    const auto records = all_records(cache_root(common));
    write_file_atomically(options->file, export_document(records).dump(1) + "\n");
    if (common.json)
      print_json({{"exported", records.size()}, {"file", options->file}});
    else
      fmt::print("exported {} records to {}\n", records.size(), options->file);
  });

  CLI::App* import_command =
      cache->add_subcommand("import", "take over tuning records from a file");
  import_command->add_option("FILE", options->file)->required();
  import_command->callback([&common, options] {
    const ImportReport report =
        import_records(read_file(options->file), families_of(common), cache_root(common));
    if (common.json) {
      print_json(
          {{"imported", report.accepted}, {"kept", report.kept}, {"refused", report.refused}});
      return;
    }
    for (const std::string& sentence : report.refused) note("refused: {}\n", sentence);
    fmt::print("imported {} records, kept {} of this machine's own, refused {}\n", report.accepted,
               report.kept, report.refused.size());
  });
}

}  // namespace quern::cli
