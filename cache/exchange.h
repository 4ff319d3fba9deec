#pragma once
#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include "cache/image_store.h"
#include "cache/record_store.h"

namespace quern {

/// An image under its key.
struct NamedImage {
  std::string key;
  StoredImage image;
};

/// One JSON document for other machines and for review, described in cache/README.md: one record a
/// problem and GPU (cache/merge.h), in order, times rounded to a nanosecond, so that two exports
/// differ only where the tunings do.
std::string export_text(std::vector<TuningRecord> records,
                        const std::vector<NamedImage>& images = {});

/// The bytes of a document, from a file or a pipe. Throws InputError if it cannot be read or holds
/// more than `max_bytes`.
std::string read_document(const std::filesystem::path& path,
                          std::size_t max_bytes = std::size_t{1} << 30);

struct ImportResult {
  std::vector<TuningRecord> accepted;  // marked imported
  std::vector<NamedImage> images;      // if asked for
  std::size_t num_images = 0;          // in the document
  std::vector<std::string> refused;    // one sentence each
};
enum class ImageImport { ignore, take };
/// Reads a document of this version or of the first; entry by entry, a malformed one is refused
/// with a sentence and the rest kept. Checks form only: whether a config lies in its template's
/// space is the caller's to check (autotune/import.h). Throws InputError if the text is not such a
/// document at all, or has more than 100,000 records, 20,000 images or 256 GPUs.
ImportResult parse_import(const std::string& text, ImageImport images = ImageImport::ignore);

}  // namespace quern
