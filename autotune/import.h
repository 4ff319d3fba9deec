#pragma once
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "autotune/registry.h"
#include "cache/grade.h"
#include "cache/record_store.h"

namespace quern {

/// Why a record is not believed, or nothing: its family has to be known, its problem supported and
/// its config to lie in the declared space and be legal, both for the GPU that the record names.
std::optional<std::string> distrust(const TuningRecord& record, const FamilyRegistry& families);

struct ImportOptions {
  /// Of the GPU here, which records are graded by (cache/grade.h). Nothing: every GPU's are kept.
  std::optional<ordered_json> fingerprint = std::nullopt;
  /// Keep records of GPUs of another architecture too.
  bool any_device = false;
  /// Take over images as well. They are code which this machine will run, and nothing but the word
  /// of whoever made the file says that they compute what their source says.
  bool trust_images = false;
};

struct ImportReport {
  std::size_t accepted = 0;  // now in the cache, marked imported
  std::size_t same_device = 0, same_architecture = 0, other = 0;  // of these, if graded
  std::size_t kept = 0;    // well formed, but this cache has a measurement of its own, or a better
                           // import (cache/merge.h), already
  std::size_t images = 0;  // now in the cache
  std::size_t images_ignored = 0;    // not trusted: their kernels are compiled here
  std::vector<std::string> refused;  // one sentence each
};

/// Brings tuning records of another machine into the cache at `root`. What distrust() objects to is
/// refused with a sentence and the rest kept: a record of a GPU like this one is gated before its
/// first use (KernelLibrary::get), one of another GPU of its architecture becomes a candidate to
/// try first (tune()), and one of another architecture is refused unless it is asked for. Nothing
/// of a record is ever executed or becomes source. Throws InputError if `text` is no export
/// document (cache/exchange.h) or the cache cannot be written.
ImportReport import_records(const std::string& text, const FamilyRegistry& families,
                            const std::filesystem::path& root, const ImportOptions& options = {});

struct MergeReport {
  std::string text;                  // the merged document, without images
  std::size_t records = 0;           // in it
  std::size_t conflicts = 0;         // problems for which one of two records was chosen
  std::vector<std::string> refused;  // one sentence each
};
/// Two export documents as one, each record checked as for an import. Throws InputError if a text
/// is no export document.
MergeReport merge_documents(const std::string& a, const std::string& b,
                            const FamilyRegistry& families);

}  // namespace quern
