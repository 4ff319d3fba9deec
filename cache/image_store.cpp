#include "cache/image_store.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "cache/files.h"
#include "cache/parse_json.h"
#include "cache/system_cache.h"
#include "runtime/base/error.h"
#include "runtime/base/hash.h"

namespace quern {
namespace fs = std::filesystem;
using namespace cache;
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{256} << 20;
constexpr auto kLeftoverAge = std::chrono::hours(1);
constexpr auto kUseResolution = std::chrono::hours(1);
constexpr std::array kFiles{"checksum", "kernel.cu", "kernel.cubin", "report.json"};
const std::string kAside = ".aside-";  // prefix of entries being built or removed

/// Lengths keep a byte from wandering between files; the key keeps an entry from being moved to the
/// name of another.
std::string checksum(const std::string& key, const std::string& source, const std::string& image,
                     const std::string& report) {
  return content_hash(fmt::format("{} {} {} {}\n{}{}{}", key, source.size(), image.size(),
                                  report.size(), source, image, report));
}

std::optional<StoredImage> load(const fs::path& folder, const std::string& key) {
  auto sum = read_regular_file(folder / "checksum", 64);
  auto source = read_regular_file(folder / "kernel.cu", kMaxFileBytes);
  auto image = read_regular_file(folder / "kernel.cubin", kMaxFileBytes);
  auto text = read_regular_file(folder / "report.json", kMaxFileBytes);
  if (!sum || !source || !image || !text) return std::nullopt;
  if (*sum != checksum(key, *source, *image, *text) + "\n") return std::nullopt;
  auto report = parse_json(*text);
  if (!report || !report->is_object() || !report->contains("report")) return std::nullopt;
  if (!report->contains("log") || !(*report)["log"].is_string()) return std::nullopt;
  return StoredImage{std::move(*source), std::move(*image), std::move((*report)["report"]),
                     (*report)["log"].get<std::string>()};
}

bool is_present(const fs::path& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

std::uintmax_t size_bytes(const fs::path& folder) {
  std::uintmax_t bytes = 0;
  std::error_code error;
  for (const auto& file : fs::directory_iterator(folder, error))
    if (const auto size = file.file_size(error); !error) bytes += size;
  return bytes;
}

/// Since the last change; the longest time there is for what is absent.
std::chrono::seconds age(const fs::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) return std::chrono::seconds::max();
  return std::chrono::seconds(std::max<time_t>(0, ::time(nullptr) - status.st_mtime));
}

/// The checksum's time is that of the entry's last use.
std::chrono::seconds unused_for(const fs::path& folder) { return age(folder / "checksum"); }

void note_use(const fs::path& folder) {
  if (unused_for(folder) >= kUseResolution)
    ::utimensat(AT_FDCWD, (folder / "checksum").c_str(), nullptr, 0);
}

void remove(const fs::path& path, ImageStore::Pruned& pruned) {
  const std::uintmax_t bytes = size_bytes(path);
  std::error_code ignored;
  fs::remove_all(path, ignored);
  if (is_present(path)) return;
  pruned.bytes += bytes;
  ++pruned.entries;
}

/// A fresh folder beside the entries, removed again unless it was renamed away.
class Aside {
 public:
  explicit Aside(const fs::path& images) : path_((images / (kAside + "XXXXXX")).string()) {
    if (!::mkdtemp(path_.data())) fail_on_file("create a folder in", images);
  }
  ~Aside() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Aside(const Aside&) = delete;
  Aside& operator=(const Aside&) = delete;
  fs::path path() const { return path_; }

  void write(const char* name, std::string_view bytes) const {
    const fs::path file = path() / name;
    const Descriptor out(::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!out || !write_all(out.get(), bytes) || ::fsync(out.get()) != 0)
      fail_on_file("write", file);
  }

 private:
  std::string path_;
};

std::vector<std::string> keys_in(const fs::path& images) {
  std::vector<std::string> keys;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(images, error))
    if (auto name = entry.path().filename().string(); is_hash(name))
      keys.push_back(std::move(name));
  std::sort(keys.begin(), keys.end());
  return keys;
}

}  // namespace

fs::path cache_folder(const char* quern_cache, const char* xdg_cache_home, const char* home) {
  if (quern_cache && *quern_cache) return quern_cache;
  if (xdg_cache_home && *xdg_cache_home == '/') return fs::path(xdg_cache_home) / "quern";
  if (home && *home) return fs::path(home) / ".cache" / "quern";
  throw InputError("no folder for the cache: set QUERN_CACHE, XDG_CACHE_HOME or HOME");
}

ImageStore::ImageStore(fs::path root, const fs::path& system_root)
    : root_(std::move(root)), images_(root_ / "images") {
  check_root(root_);
  if (!system_root.empty() && !system_cache_problem(system_root))
    system_images_ = system_root / "images";
}

fs::path ImageStore::folder_of(const std::string& key) const {
  if (!is_hash(key)) throw InputError("the key of an image should be 32 lowercase hex digits");
  return images_ / key;
}

std::optional<StoredImage> ImageStore::find(const std::string& key) {
  const fs::path folder = folder_of(key);
  if (!is_present(folder)) return find_in_system(key);
  auto image = load(folder, key);
  if (!image) {
    // Another process may have been replacing the entry: only the lock's holder can judge.
    if (remove_if_damaged(key)) return find_in_system(key);
    return load(folder, key);
  }
  note_use(folder);
  return image;
}

std::optional<StoredImage> ImageStore::find_in_system(const std::string& key) const {
  if (system_images_.empty()) return std::nullopt;
  const fs::path folder = system_images_ / key;
  if (!is_present(folder) || foreign_writer(folder)) return std::nullopt;
  // What was copied there with its owners may still be theirs to change.
  for (const char* name : kFiles)
    if (foreign_writer(folder / name)) return std::nullopt;
  return load(folder, key);
}

bool ImageStore::remove_if_damaged(const std::string& key) {
  const fs::path folder = folder_of(key);
  const Descriptor lock = lock_file(images_ / "lock");
  if (!is_present(folder) || load(folder, key)) return false;
  ++num_damaged_;
  std::error_code ignored;
  const fs::path aside = images_ / fmt::format("{}{}-{}", kAside, key, ::getpid());
  fs::rename(folder, aside, ignored);
  fs::remove_all(aside, ignored);
  return true;
}

void ImageStore::put(const std::string& key, const StoredImage& image) {
  const fs::path folder = folder_of(key);
  make_private_folder(images_);
  // A compiler's log may quote source in any encoding.
  const std::string report = ordered_json{{"report", image.report}, {"log", image.log}}.dump(
                                 2, ' ', false, ordered_json::error_handler_t::replace) +
                             "\n";
  const Aside aside(images_);
  aside.write("kernel.cu", image.source);
  aside.write("kernel.cubin", image.image);
  aside.write("report.json", report);
  aside.write("checksum", checksum(key, image.source, image.image, report) + "\n");
  sync_folder(aside.path());

  remove_if_damaged(key);
  const Descriptor lock = lock_file(images_ / "lock");
  // rename(2) replaces only an empty folder, so an entry that is already there stays.
  if (::rename(aside.path().c_str(), folder.c_str()) != 0 && errno != ENOTEMPTY && errno != EEXIST)
    fail_on_file("write", folder);
  sync_folder(images_);
}

std::optional<Descriptor> ImageStore::try_claim(const std::string& key) {
  folder_of(key);  // refuses what is no key
  try {
    make_private_folder(images_);
  } catch (const InputError&) {
    return Descriptor();
  }
  // One file serves all keys, each at a place of its own: nothing is left behind for anybody to
  // clean up. Locks of an open file description, unlike those of a process, also part threads.
  Descriptor file(
      ::open((images_ / "claims").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return file;
  struct flock place {};
  place.l_type = F_WRLCK;
  place.l_whence = SEEK_SET;
  place.l_start = static_cast<off_t>(std::stoull(key.substr(0, 15), nullptr, 16));
  place.l_len = 1;
  if (::fcntl(file.get(), F_OFD_SETLK, &place) == 0) return file;
  if (errno == EAGAIN || errno == EACCES) return std::nullopt;
  return Descriptor();
}

std::vector<ImageStore::Entry> ImageStore::verify() {
  std::vector<Entry> entries;
  for (std::string& key : keys_in(images_)) {
    const bool intact = load(images_ / key, key).has_value();
    if (!intact) ++num_damaged_;
    const std::uintmax_t bytes = size_bytes(images_ / key);
    entries.push_back({std::move(key), bytes, intact});
  }
  return entries;
}

ImageStore::Pruned ImageStore::prune(std::chrono::seconds limit, std::uintmax_t max_bytes) {
  Pruned pruned;
  if (!is_present(images_)) return pruned;
  {
    const Descriptor lock = lock_file(images_ / "lock");
    std::vector<fs::path> doomed;
    for (const std::string& key : keys_in(images_))
      if (const fs::path folder = images_ / key;
          unused_for(folder) >= limit || !load(folder, key))
        doomed.push_back(folder);
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(images_, error))
      if (entry.path().filename().string().starts_with(kAside) && age(entry.path()) > kLeftoverAge)
        doomed.push_back(entry.path());
    for (const fs::path& path : doomed) remove(path, pruned);
  }
  const Pruned trimmed = trim(max_bytes);
  return {pruned.entries + trimmed.entries, pruned.bytes + trimmed.bytes};
}

ImageStore::Pruned ImageStore::trim(std::uintmax_t max_bytes) {
  Pruned pruned;
  if (!is_present(images_)) return pruned;
  const Descriptor lock = lock_file(images_ / "lock");
  struct Used {
    std::chrono::seconds unused_for;
    fs::path folder;
    std::uintmax_t bytes;
  };
  std::vector<Used> entries;
  std::uintmax_t total = 0;
  for (const std::string& key : keys_in(images_)) {
    fs::path folder = images_ / key;
    const std::uintmax_t bytes = size_bytes(folder);
    total += bytes;
    entries.push_back({unused_for(folder), std::move(folder), bytes});
  }
  if (total <= max_bytes) return pruned;
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Used& a, const Used& b) { return a.unused_for > b.unused_for; });
  for (const Used& entry : entries) {
    if (total <= max_bytes) break;
    const std::uintmax_t before = pruned.bytes;
    remove(entry.folder, pruned);
    total -= std::min(total, pruned.bytes - before);
  }
  return pruned;
}

}  // namespace quern
