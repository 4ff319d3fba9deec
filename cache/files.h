#pragma once
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/base/descriptor.h"

/// What a cache shared by many processes needs of POSIX, besides runtime/base/descriptor.h. Private
/// to cache/.
namespace quern::cache {

/// Waits for an advisory lock on the open file, released when the descriptor closes. A file system
/// without locks is not an error: every reader here tolerates torn writes anyway.
void lock(const Descriptor& file, bool exclusive);
void unlock(const Descriptor& file);

/// Opens (creating it, mode 0600) and exclusively locks `path`; an empty descriptor if it cannot be
/// created, which a caller with a read-only cache may ignore.
Descriptor lock_file(const std::filesystem::path& path);

/// A regular file of at most `max_bytes`; anything else (absent, a link, a pipe, too large) is
/// nothing, so that a hostile cache folder can neither hang the reader nor exhaust its memory.
std::optional<std::string> read_regular_file(const std::filesystem::path& path,
                                             std::size_t max_bytes);

/// Creates `folder` and missing parents with mode 0700. Throws InputError if it cannot.
void make_private_folder(const std::filesystem::path& folder);

/// Who besides this user and root could have put something where `path` leads, as half a sentence;
/// nothing if nobody could, or if nothing is there.
std::optional<std::string_view> foreign_writer(const std::filesystem::path& path);

/// Throws InputError with one sentence if `root` exists and is not a folder that this user may
/// write, or if it, its images or its tuning records belong to a user other than this one and root,
/// or may be written by their group or by everybody: a cache holds code that will be run.
void check_root(const std::filesystem::path& root);

/// 32 lowercase hex digits: the only text that ever becomes part of a path here.
bool is_hash(std::string_view text);

}  // namespace quern::cache
