#include <fmt/format.h>

#include <optional>

#include "autotune/regate.h"
#include "cache/block_list.h"
#include "cache/image_store.h"
#include "cache/record_store.h"
#include "model/cli_cache.h"
#include "model/gpu_session.h"

namespace quern::cli {
namespace {

RegateReport regate(const Common& common, int ordinal) {
  GpuSession session({ordinal, cache_root(common), common.library_dirs, templates_of(common),
                      common.worker_command, common.system_cache});
  RecordStore store(cache_root(common), session.kernels().records().fingerprint(),
                    common.system_cache);
  ProgressLine line(common);
  return regate_records(session.kernels(), store, [&](std::size_t done, std::size_t total) {
    line.update(fmt::format("checking records: {}/{}", done, total));
  });
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
  std::size_t damaged_lines = 0, damaged_blocked = 0;
  const auto records = all_records(cache_root(common), &damaged_lines);
  all_block_lists(cache_root(common), &damaged_blocked);
  damaged_lines += damaged_blocked;
  const std::optional<int> ordinal = gpu_ordinal(common.device);
  const RegateReport gated = ordinal ? regate(common, *ordinal) : RegateReport();
  if (common.json) {
    print_json({{"images", intact},
                {"damaged_images", broken},
                {"bytes", bytes},
                {"records", records.size()},
                {"damaged_lines", damaged_lines},
                {"gated", ordinal.has_value()},
                {"passed", gated.passed},
                {"out_of_date", gated.out_of_date},
                {"dropped", gated.dropped},
                {"skipped", gated.skipped}});
    return;
  }
  for (const std::string& key : broken)
    fmt::print("damaged image {}: it will be recompiled\n", key);
  for (const std::string& sentence : gated.dropped) fmt::print("{}\n", sentence);
  for (const std::string& sentence : gated.skipped) fmt::print("{}\n", sentence);
  fmt::print("{} images intact ({:.1f} MB), {} damaged; {} tuning records, {} damaged lines\n",
             intact, static_cast<double>(bytes) / 1e6, broken.size(), records.size(),
             damaged_lines);
  if (ordinal)
    fmt::print("{} records of this GPU passed the gate, {} are out of date, {} dropped\n",
               gated.passed, gated.out_of_date, gated.dropped.size());
  else
    fmt::print("no GPU: the records were checked in form only\n");
}

}  // namespace

void add_cache_verify(CLI::App& cache, Common& common) {
  cache
      .add_subcommand("verify",
                      "check every image and record; where there is a GPU, its records pass the "
                      "correctness gate again or are dropped")
      ->callback([&common] { verify(common); });
}

}  // namespace quern::cli
