#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "autotune/export_images.h"
#include "autotune/import.h"
#include "cache/exchange.h"
#include "compiler/nvrtc.h"
#include "model/cli_cache.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "runtime/device.h"

namespace quern::cli {
namespace {

constexpr std::size_t kMaxSentences = 20;  // that people are shown

void show_refused(const std::vector<std::string>& refused) {
  for (std::size_t i = 0; i < std::min(refused.size(), kMaxSentences); ++i)
    note("refused: {}\n", refused[i]);
  if (refused.size() > kMaxSentences)
    note("and {} more; --json lists all\n", refused.size() - kMaxSentences);
}

/// Of the GPU that --device names, or of GPU 0 where there is one.
std::optional<ordered_json> own_fingerprint(const Common& common) {
  const auto ordinal = gpu_ordinal(common.device);
  if (!ordinal) return std::nullopt;
  const auto all = devices();
  const auto index = static_cast<std::size_t>(*ordinal);
  if (index >= all.size())
    throw DeviceError(fmt::format("there is no GPU {}: this machine has {}, numbered from 0",
                                  *ordinal, all.size()));
  return all[index].fingerprint();
}

void add_export(CLI::App& cache, Common& common) {
  struct Options {
    std::string file;
    bool images = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command =
      cache.add_subcommand("export", "write all tuning records to one file that reads well");
  command->add_option("FILE", options->file)->required();
  command->add_flag(
      "--images", options->images,
      "also the compiled kernels of these records, for a machine that trusts this one");
  command->callback([&common, options] {
    const auto records = all_records(cache_root(common), nullptr, common.system_cache);
    std::vector<NamedImage> images;
    if (options->images) {
      ImageStore store(cache_root(common), common.system_cache);
      images = images_of(records, families_of(common), Nvrtc(common.library_dirs).version(), store);
    }
    write_file_atomically(options->file, export_text(records, images));
    if (common.json)
      print_json(
          {{"exported", records.size()}, {"images", images.size()}, {"file", options->file}});
    else
      fmt::print("exported {} records and {} images to {}\n", records.size(), images.size(),
                 options->file);
  });
}

void add_import(CLI::App& cache, Common& common) {
  struct Options {
    std::string file;
    bool any_device = false, trust_images = false;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = cache.add_subcommand(
      "import",
      "take over tuning records from a file: those of a GPU like this one pass the correctness "
      "gate before their first use, those of its architecture are the first candidates of a tune, "
      "others are refused; without a GPU here all are kept. Of two records of one problem this "
      "machine's own stays, then that of the newer NVRTC counts, then of the tighter relative "
      "spread, then the faster");
  command->add_option("FILE", options->file)->required();
  command->add_flag("--any-device", options->any_device,
                    "keep records of GPUs of other architectures too");
  command->add_flag("--trust-images", options->trust_images,
                    "also take over compiled kernels: code that will run on this machine as it is, "
                    "with nobody but the file's author to say what it does");
  command->callback([&common, options] {
    ImportOptions how;
    how.fingerprint = own_fingerprint(common);
    how.any_device = options->any_device;
    how.trust_images = options->trust_images;
    const ImportReport report =
        import_records(read_document(options->file), families_of(common), cache_root(common), how);
    if (common.json) {
      print_json({{"imported", report.accepted},
                  {"graded", how.fingerprint.has_value()},
                  {"same_device", report.same_device},
                  {"same_architecture", report.same_architecture},
                  {"other", report.other},
                  {"kept", report.kept},
                  {"images", report.images},
                  {"images_ignored", report.images_ignored},
                  {"refused", report.refused}});
      return;
    }
    show_refused(report.refused);
    fmt::print("imported {} records, kept {} that were here, refused {}\n", report.accepted,
               report.kept, report.refused.size());
    if (how.fingerprint)
      fmt::print("{} are of this model of GPU, {} of its architecture, {} of others\n",
                 report.same_device, report.same_architecture, report.other);
    if (report.images > 0) fmt::print("took over {} compiled kernels\n", report.images);
    if (report.images_ignored > 0)
      fmt::print(
          "ignored {} compiled kernels, which are code from elsewhere: they will be compiled "
          "here (--trust-images takes them over)\n",
          report.images_ignored);
  });
}

void add_merge(CLI::App& cache, Common& common) {
  struct Options {
    std::string a, b, out;
  };
  const auto options = std::make_shared<Options>();
  CLI::App* command = cache.add_subcommand(
      "merge",
      "two exported files as one: of two records of one problem that of the newer NVRTC counts, "
      "then of the tighter relative spread, then the faster; images are left out");
  command->add_option("A", options->a)->required();
  command->add_option("B", options->b)->required();
  command->add_option("--out", options->out, "file to write")->required();
  command->callback([&common, options] {
    const MergeReport report =
        merge_documents(read_document(options->a), read_document(options->b), families_of(common));
    write_file_atomically(options->out, report.text);
    if (common.json) {
      print_json({{"merged", report.records},
                  {"conflicts", report.conflicts},
                  {"refused", report.refused},
                  {"file", options->out}});
      return;
    }
    show_refused(report.refused);
    fmt::print("merged {} records into {}; {} were passed over for better ones, {} refused\n",
               report.records, options->out, report.conflicts, report.refused.size());
  });
}

}  // namespace

void add_cache_exchange(CLI::App& cache, Common& common) {
  add_export(cache, common);
  add_import(cache, common);
  add_merge(cache, common);
}

}  // namespace quern::cli
