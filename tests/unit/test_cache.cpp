#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "cache/image_store.h"
#include "cache/record_store.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "tests/support/support.h"

using namespace quern;
namespace fs = std::filesystem;

namespace {

const std::string kKey = content_hash("a kernel");

StoredImage sample(const std::string& tag = "") {
  return {"// source \"" + tag + "\"\n",
          std::string("\x7f"
                      "ELF\0\1",
                      6) +
              tag,
          {{"registers", 32}, {"spill_store_bytes", 0}},
          "ptxas info: 'quoted'\n" + tag};
}

void check_equal(const StoredImage& a, const StoredImage& b) {
  CHECK_EQ(a.source, b.source);
  CHECK_EQ(a.image, b.image);
  CHECK_EQ(a.report, b.report);
  CHECK_EQ(a.log, b.log);
}

std::size_t num_entries(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

/// The one sentence that a call throws as InputError.
template <class F>
std::string sentence_of(F call) {
  try {
    call();
  } catch (const InputError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("the cache folder follows its three variables") {
  CHECK_EQ(cache_folder("/a", "/b", "/c"), "/a");
  CHECK_EQ(cache_folder(nullptr, "/b", "/c"), "/b/quern");
  CHECK_EQ(cache_folder("", "/b", "/c"), "/b/quern");
  CHECK_EQ(cache_folder(nullptr, "relative", "/c"), "/c/.cache/quern");
  CHECK_EQ(cache_folder(nullptr, nullptr, "/c"), "/c/.cache/quern");
  CHECK_THROWS_AS(cache_folder(nullptr, nullptr, nullptr), InputError);
  CHECK_THROWS_AS(cache_folder("", "", ""), InputError);
}

TEST_CASE("an image comes back as it was put") {
  const test::TemporaryFolder folder;
  const fs::path root = folder.path() / "deep" / "cache";
  ImageStore store(root);
  CHECK_FALSE(fs::exists(root));  // nothing is made before the first write
  CHECK_FALSE(store.find(kKey).has_value());
  store.put(kKey, sample());
  const auto found = store.find(kKey);
  REQUIRE(found.has_value());
  check_equal(*found, sample());
  CHECK_EQ(fs::status(root).permissions(), fs::perms::owner_all);
  CHECK_EQ(fs::status(root / "images" / kKey).permissions(), fs::perms::owner_all);
  CHECK(ImageStore(root).find(kKey).has_value());
  store.put(kKey, sample("another"));  // the intact entry stays
  check_equal(*store.find(kKey), sample());
  CHECK_EQ(num_entries(root / "images"), 2);  // the entry and the lock: nothing is left aside
  const auto entries = store.verify();
  REQUIRE_EQ(entries.size(), 1);
  CHECK(entries[0].intact);
  CHECK_GT(entries[0].bytes, 0);
  CHECK_EQ(store.num_damaged(), 0);
}

TEST_CASE("empty files and text in no encoding are kept too") {
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  store.put(kKey, {"", "", ordered_json::object(), ""});
  CHECK_EQ(store.find(kKey)->image, "");
  const std::string other = content_hash("other");
  store.put(other, {"\xff\xfe", "x", ordered_json::object(), "\xff log"});
  CHECK_EQ(store.find(other)->source, "\xff\xfe");
}

TEST_CASE("only hashes become paths") {
  const test::TemporaryFolder folder;
  ImageStore store(folder.path() / "cache");
  for (const std::string& key :
       {std::string(), std::string("../../etc/passwd"), std::string(31, 'a'), std::string(33, 'a'),
        std::string(32, 'A'), std::string(32, '.'), std::string(31, 'a') + '/',
        std::string(31, 'a') + '\0', "#include <" + std::string(22, 'a')}) {
    CHECK_THROWS_AS(store.find(key), InputError);
    CHECK_THROWS_AS(store.put(key, sample()), InputError);
  }
  CHECK_EQ(num_entries(folder.path()), 0);
}

TEST_CASE("an entry cut at any byte, or with any byte changed, is dropped and made anew") {
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  std::size_t num_damaged = 0;
  for (const char* name : {"kernel.cu", "kernel.cubin", "report.json", "checksum"}) {
    store.put(kKey, sample());
    const fs::path file = folder.path() / "images" / kKey / name;
    const std::string bytes = read_file(file);
    for (std::size_t at = 0; at < bytes.size(); ++at) {
      for (const bool cut : {true, false}) {
        store.put(kKey, sample());
        std::string damaged = cut ? bytes.substr(0, at) : bytes;
        if (!cut) damaged[at] = static_cast<char>(damaged[at] ^ 1);
        std::ofstream(file, std::ios::binary) << damaged;
        CAPTURE(name);
        CAPTURE(at);
        CHECK_FALSE(store.verify()[0].intact);
        CHECK_FALSE(store.find(kKey).has_value());
        CHECK_FALSE(fs::exists(folder.path() / "images" / kKey));
        num_damaged += 2;  // verify and find
      }
    }
  }
  CHECK_EQ(store.num_damaged(), num_damaged);
}

TEST_CASE("an entry under another's name, a missing file, and what is no file are damage") {
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  store.put(kKey, sample());
  const std::string other = content_hash("other");
  const fs::path images = folder.path() / "images";
  fs::copy(images / kKey, images / other);
  CHECK_FALSE(store.find(other).has_value());
  CHECK(store.find(kKey).has_value());

  fs::remove(images / kKey / "kernel.cubin");
  CHECK_FALSE(store.find(kKey).has_value());

  store.put(kKey, sample());
  fs::remove(images / kKey / "kernel.cubin");
  REQUIRE_EQ(::mkfifo((images / kKey / "kernel.cubin").c_str(), 0600), 0);
  CHECK_FALSE(store.find(kKey).has_value());  // and does not wait for a writer

  store.put(kKey, sample());
  fs::remove(images / kKey / "kernel.cubin");
  fs::create_symlink("/etc/passwd", images / kKey / "kernel.cubin");
  CHECK_FALSE(store.find(kKey).has_value());

  store.put(kKey, sample());
  fs::resize_file(images / kKey / "kernel.cubin", std::uintmax_t{1} << 40);  // sparse
  CHECK_FALSE(store.find(kKey).has_value());

  std::ofstream(images / kKey) << "a file where a folder should be";
  CHECK_FALSE(store.find(kKey).has_value());
  std::ofstream(images / kKey) << "again";
  store.put(kKey, sample());  // replaces damage
  CHECK(store.find(kKey).has_value());
}

TEST_CASE("a folder that cannot serve is refused with one sentence") {
  const test::TemporaryFolder folder;
  const fs::path file = folder.path() / "file";
  std::ofstream(file) << "x";
  CHECK_NE(sentence_of([&] { ImageStore{file}; }).find("is not a folder"), std::string::npos);
  CHECK_NE(sentence_of([&] { ImageStore{file / "cache"}; }).find(file.string()), std::string::npos);
  ImageStore nowhere("/proc/quern");
  const std::string sentence = sentence_of([&] { nowhere.put(kKey, sample()); });
  CHECK_NE(sentence.find("/proc/quern"), std::string::npos);
  CHECK_EQ(sentence.find('\n'), std::string::npos);

  const fs::path open = folder.path() / "open";
  fs::create_directory(open);
  fs::permissions(open, fs::perms::all);
  CHECK_NE(sentence_of([&] { ImageStore{open}; }).find("every user"), std::string::npos);
  if (::geteuid() == 0) {
    const fs::path foreign = folder.path() / "foreign";
    fs::create_directory(foreign);
    REQUIRE_EQ(::chown(foreign.c_str(), 12345, 12345), 0);
    CHECK_NE(sentence_of([&] { ImageStore{foreign}; }).find("another user"), std::string::npos);
  } else {
    const fs::path locked = folder.path() / "locked";
    fs::create_directory(locked);
    fs::permissions(locked, fs::perms::owner_read);
    CHECK_NE(sentence_of([&] { ImageStore{locked}; }), "");
  }
}

TEST_CASE("a folder that others may write to is refused, wherever a link to it stands") {
  const test::TemporaryFolder folder;
  const fs::path root = folder.path() / "cache", link = folder.path() / "link";
  ImageStore(root).put(kKey, sample());
  fs::create_directory_symlink(root, link);
  CHECK(ImageStore(link).find(kKey).has_value());
  fs::create_directory(root / "tuning");
  fs::permissions(root, fs::perms::owner_all | fs::perms::group_read | fs::perms::others_read);
  CHECK(ImageStore(root).find(kKey).has_value());  // others may look

  for (const fs::path& open : {root, root / "images", root / "tuning"})
    for (const auto& [writers, words] : {std::pair(fs::perms::group_write, "its group may write"),
                                         std::pair(fs::perms::others_write, "every user may")}) {
      fs::permissions(open, writers, fs::perm_options::add);
      for (const fs::path& name : {root, link}) {
        const std::string sentence = sentence_of([&] { ImageStore{name}; });
        CAPTURE(sentence);
        CHECK_NE(sentence.find(words), std::string::npos);
        CHECK_EQ(sentence.find('\n'), std::string::npos);
        CHECK_EQ(sentence_of([&] { RecordStore(name, {{"name", "GPU"}}); }), sentence);
        CHECK_EQ(sentence_of([&] { all_records(name); }), sentence);
      }
      fs::permissions(open, writers, fs::perm_options::remove);
    }
  CHECK(ImageStore(root).find(kKey).has_value());
}

TEST_CASE("pruning removes damage, old entries and what killed writers left") {
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  CHECK_EQ(store.prune(std::chrono::seconds(0)).entries, 0);
  const std::string old = content_hash("old"), broken = content_hash("broken");
  for (const std::string& key : {kKey, old, broken}) store.put(key, sample());
  const fs::path images = folder.path() / "images";
  fs::remove(images / broken / "kernel.cu");
  const auto long_ago = fs::file_time_type::clock::now() - std::chrono::hours(48);
  fs::last_write_time(images / old / "checksum", long_ago);
  fs::create_directory(images / ".aside-left");
  fs::last_write_time(images / ".aside-left", long_ago);
  fs::create_directory(images / ".aside-young");
  const auto pruned = store.prune(std::chrono::hours(24));
  CHECK_EQ(pruned.entries, 3);
  CHECK_GT(pruned.bytes, 0);
  CHECK(store.find(kKey).has_value());
  CHECK_FALSE(store.find(old).has_value());
  CHECK(fs::exists(images / ".aside-young"));
}

TEST_CASE("the images used longest ago go first until the rest fits") {
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  const fs::path images = folder.path() / "images";
  std::vector<std::string> keys;
  for (int i = 0; i < 5; ++i) {
    keys.push_back(content_hash(std::to_string(i)));
    store.put(keys.back(), sample());
    fs::last_write_time(images / keys.back() / "checksum",
                        fs::file_time_type::clock::now() - std::chrono::hours(10 + i));
  }
  const auto bytes = store.verify()[0].bytes;
  CHECK(store.find(keys[4]));  // used just now, so that keys[3] is the one left alone longest
  CHECK_EQ(store.trim(5 * bytes).entries, 0);
  CHECK_EQ(store.trim(5 * bytes - 1).entries, 1);
  CHECK_FALSE(store.find(keys[3]));
  const auto trimmed = store.prune(std::chrono::hours(24), 2 * bytes + 1);
  CHECK_EQ(trimmed.entries, 2);
  CHECK_EQ(trimmed.bytes, 2 * bytes);
  CHECK(store.find(keys[4]));
  CHECK(store.find(keys[0]));
  CHECK_EQ(store.trim(0).entries, 2);
  CHECK_EQ(num_entries(images), 1);  // the lock
}

TEST_CASE("finding an image notes its use, at most once an hour") {
  const test::TemporaryFolder folder;
  ImageStore store(folder.path());
  store.put(kKey, sample());
  const fs::path checksum = folder.path() / "images" / kKey / "checksum";
  const auto now = fs::file_time_type::clock::now();
  for (const auto& [age, noted] :
       {std::pair(std::chrono::minutes(30), false), std::pair(std::chrono::minutes(90), true)}) {
    fs::last_write_time(checksum, now - age);
    CHECK(store.find(kKey));
    CHECK_EQ(fs::last_write_time(checksum) > now - std::chrono::minutes(10), noted);
  }
}

TEST_CASE("writers killed at any moment leave no torn image, and what they finished") {
  const test::TemporaryFolder folder;
  const auto key = [](int i) { return content_hash(std::to_string(i)); };
  int previous = 0;
  for (int round = 0; round < 4; ++round) {
    int finished[2];
    REQUIRE_EQ(::pipe(finished), 0);
    const pid_t pid = ::fork();
    REQUIRE_GE(pid, 0);
    if (pid == 0) {
      ImageStore store(folder.path());
      for (int i = previous;; ++i) {
        store.put(key(i), sample(key(i)));
        [[maybe_unused]] const ssize_t ignored = ::write(finished[1], &i, sizeof i);
      }
    }
    ::close(finished[1]);
    ::usleep(static_cast<useconds_t>(30000 + 11000 * round));
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    int last = -1;
    while (::read(finished[0], &last, sizeof last) == sizeof last) {
    }
    ::close(finished[0]);
    ImageStore store(folder.path());
    for (int i = 0; i <= last; ++i) {
      REQUIRE(store.find(key(i)));
      check_equal(*store.find(key(i)), sample(key(i)));
    }
    for (const auto& entry : store.verify()) CHECK(entry.intact);
    previous = std::max(previous, last + 1);
  }
}

TEST_CASE("many processes may write and damage the same entries") {
  const test::TemporaryFolder folder;
  std::vector<std::string> keys;
  for (int i = 0; i < 6; ++i) keys.push_back(content_hash(std::to_string(i)));
  std::vector<pid_t> children;
  for (int child = 0; child < 8; ++child) {
    const pid_t pid = ::fork();
    REQUIRE_GE(pid, 0);
    if (pid == 0) {
      int bad = 0;
      try {
        ImageStore store(folder.path());
        for (int round = 0; round < 12; ++round)
          for (const std::string& key : keys) {
            store.put(key, sample(key));
            if (child == 0 && round % 4 == 0) {
              std::error_code ignored;
              fs::resize_file(folder.path() / "images" / key / "kernel.cubin", 3, ignored);
            }
            const auto found = store.find(key);
            if (found && (found->image != sample(key).image || found->log != sample(key).log))
              ++bad;
          }
      } catch (...) {
        bad = 99;
      }
      ::_exit(bad);
    }
    children.push_back(pid);
  }
  for (const pid_t pid : children) {
    int status = 0;
    REQUIRE_EQ(::waitpid(pid, &status, 0), pid);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
  }
  ImageStore store(folder.path());
  for (const std::string& key : keys) {
    store.put(key, sample(key));
    check_equal(*store.find(key), sample(key));
  }
  CHECK_EQ(num_entries(folder.path() / "images"), keys.size() + 1);
}

TEST_CASE("an image is claimed by one at a time") {
  const test::TemporaryFolder folder;
  ImageStore store(folder.path() / "cache");
  const std::string key(32, 'f'), other = std::string(31, 'f') + '0', far = std::string(32, '0');
  {
    const auto claim = store.try_claim(key);
    REQUIRE(claim);
    CHECK(*claim);
    CHECK_FALSE(store.try_claim(key));
    CHECK_FALSE(ImageStore(folder.path() / "cache").try_claim(key));
    CHECK(store.try_claim(far));
  }
  CHECK(store.try_claim(key));
  CHECK(store.try_claim(other));
  CHECK_THROWS_AS(store.try_claim("../../etc"), InputError);
  CHECK(store.verify().empty());
}
