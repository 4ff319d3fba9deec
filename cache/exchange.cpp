#include "cache/exchange.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "cache/base64.h"
#include "cache/fields.h"
#include "cache/files.h"
#include "cache/merge.h"
#include "cache/parse_json.h"
#include "cache/tuning_file.h"
#include "runtime/base/descriptor.h"
#include "runtime/base/error.h"

namespace quern {
using namespace cache;
namespace {

constexpr int kVersion = 2;
constexpr int kFirstVersion = 1;  // every record had its whole fingerprint
constexpr std::size_t kMaxRecords = 100'000;
constexpr std::size_t kMaxImages = 20'000;
constexpr std::size_t kMaxDevices = 256;

constexpr std::string_view kRecords = "records";
constexpr std::string_view kImages = "images";
constexpr std::array kLists{kRecords, kImages};
constexpr std::array<std::string_view, 5> kImageKeys{"key", "source", "cubin", "report", "log"};

/// `value` in steps of 1 / `steps`.
double rounded(double value, double steps) { return std::round(value * steps) / steps; }

std::string dump(const ordered_json& value) {
  // A compiler's log may quote source in any encoding.
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

/// Some fields of an object, without its braces.
std::string members(const ordered_json& object) {
  const std::string text = dump(object);
  return text.substr(1, text.size() - 2);
}

/// As many digits of the fingerprints' hashes as tell them apart, eight at least: a name that does
/// not change when another GPU joins the document.
std::map<std::string, ordered_json> name_devices(const std::vector<TuningRecord>& records) {
  std::map<std::string, ordered_json> by_hash;
  for (const TuningRecord& r : records)
    by_hash.try_emplace(fingerprint_hash(r.fingerprint), r.fingerprint);
  for (std::size_t digits = 8;; ++digits) {
    std::map<std::string, ordered_json> named;
    for (const auto& [hash, fingerprint] : by_hash) named[hash.substr(0, digits)] = fingerprint;
    if (named.size() == by_hash.size()) return named;
  }
}

/// Three lines, so that a diff tells a new winner from a new timing of the old one.
std::string record_text(const TuningRecord& r, const std::string& device) {
  ordered_json winner = {{"config", r.config}, {"template_hash", r.template_hash}};
  if (!r.nvrtc.empty()) winner["nvrtc"] = r.nvrtc;
  ordered_json measured = {
      {"median_us", rounded(r.median_us, 1e3)}, {"spread_us", rounded(r.spread_us, 1e3)},
      {"num_samples", r.num_samples},           {"default_us", rounded(r.default_us, 1e3)},
      {"error", rounded(r.error, 1e4)},         {"measured_at", r.measured_at}};
  if (r.energy_mj) measured["energy_mj"] = rounded(*r.energy_mj, 1e3);
  return fmt::format("  {{{},\n   {},\n   {}}}",
                     members({{"device", device}, {"family", r.family}, {"problem", r.problem}}),
                     members(winner), members(measured));
}

std::string image_text(const NamedImage& image) {
  return "  " + dump({{"key", image.key},
                      {"source", image.image.source},
                      {"cubin", encode_base64(image.image.image)},
                      {"report", image.image.report},
                      {"log", image.image.log}});
}

std::string joined(const std::vector<std::string>& lines) {
  return lines.empty() ? "" : fmt::format("\n{}\n ", fmt::join(lines, ",\n"));
}

/// Reads the lists of a document whose other parts are known.
class Importer {
 public:
  Importer(const ordered_json& document, ImageImport images)
      : with_devices_(document["quern_tuning"] == kVersion), images_(images) {
    if (!with_devices_) return;
    const auto devices = document.find("devices");
    if (devices == document.end() || !devices->is_object())
      throw InputError("the file of tuning records has no object 'devices' with every key once");
    devices_ = *devices;
  }

  bool take(std::string_view list, ordered_json element) {
    if (list == kImages) {
      take_image(std::move(element));
      return true;
    }
    ++num_records_;
    try {
      TuningRecord record = tuning_record_from_json(
          with_devices_ ? with_fingerprint(std::move(element)) : std::move(element));
      record.imported = true;
      fingerprints_.insert(fingerprint_hash(record.fingerprint));
      if (fingerprints_.size() > kMaxDevices)
        throw InputError(fmt::format("there are more than {} GPUs in one file", kMaxDevices));
      result_.accepted.push_back(std::move(record));
    } catch (const InputError& error) {
      result_.refused.push_back(
          fmt::format("record {} is refused: {}", num_records_, error.what()));
    }
    return true;
  }

  ImportResult result() { return std::move(result_); }

 private:
  /// A record as RecordStore keeps it, from one that refers to the list of devices.
  ordered_json with_fingerprint(ordered_json element) const {
    if (!element.is_object()) return element;
    for (const char* key : {"fingerprint", "imported"})
      if (element.contains(key))
        throw InputError(fmt::format("'{}' is not a field of an exported record", key));
    const auto device = element.find("device");
    if (device == element.end()) throw InputError("an exported record lacks the field 'device'");
    if (!device->is_string() || !devices_.contains(device->get_ref<const std::string&>()))
      throw InputError("'device' of an exported record should name one of the file's devices");
    ordered_json fingerprint = devices_[device->get_ref<const std::string&>()];
    element.erase("device");
    element["fingerprint"] = std::move(fingerprint);
    element["imported"] = true;
    return element;
  }

  void take_image(ordered_json element) {
    ++result_.num_images;
    if (images_ == ImageImport::ignore) return;
    try {
      const Fields fields(element, "stored image", kImageKeys);
      for (const std::string_view key : {"source", "cubin", "log"})
        if (!fields.at(key).is_string()) fields.wrong(key, "a string");
      const auto cubin = decode_base64(fields.at("cubin").get_ref<const std::string&>());
      if (!cubin) fields.wrong("cubin", "base64");
      if (!fields.at("report").is_object()) fields.wrong("report", "an object");
      result_.images.push_back({fields.hash("key"),
                                {fields.at("source").get<std::string>(), *cubin,
                                 fields.at("report"), fields.at("log").get<std::string>()}});
    } catch (const InputError& error) {
      result_.refused.push_back(
          fmt::format("image {} is refused: {}", result_.num_images, error.what()));
    }
  }

  bool with_devices_;
  ImageImport images_;
  ordered_json devices_;
  std::set<std::string> fingerprints_;  // hashes
  std::size_t num_records_ = 0;
  ImportResult result_;
};

/// All but the lists, checked. Throws InputError if this is no document, or a monstrous one.
ordered_json outline(const std::string& text) {
  std::size_t num_records = 0, num_images = 0;
  const auto document = parse_document(text, kLists, [&](std::string_view list, ordered_json) {
    return list == kRecords ? ++num_records <= kMaxRecords : ++num_images <= kMaxImages;
  });
  if (num_records > kMaxRecords)
    throw InputError(fmt::format("the file has more than {} tuning records", kMaxRecords));
  if (num_images > kMaxImages)
    throw InputError(fmt::format("the file has more than {} images", kMaxImages));
  if (!document) throw InputError("the file of tuning records is not JSON");
  if (!document->is_object() || !document->contains("quern_tuning"))
    throw InputError("the file holds no tuning records: 'quern_tuning' is missing");
  const ordered_json& version = (*document)["quern_tuning"];
  if (!version.is_number_integer() || (version != kVersion && version != kFirstVersion))
    throw InputError(fmt::format("the tuning records are of a version other than {} and {}",
                                 kFirstVersion, kVersion));
  if (!document->contains(kRecords) || !(*document)[kRecords].is_array())
    throw InputError("the file of tuning records has no list 'records'");
  return *document;
}

}  // namespace

std::string export_text(std::vector<TuningRecord> records, const std::vector<NamedImage>& images) {
  records = merge_records(std::move(records));
  std::vector<std::string> devices, record_lines, image_lines;
  std::map<std::string, std::string> names;  // by fingerprint hash
  for (const auto& [name, fingerprint] : name_devices(records)) {
    devices.push_back(fmt::format("  \"{}\": {}", name, dump(fingerprint)));
    names[fingerprint_hash(fingerprint)] = name;
  }
  for (const TuningRecord& r : records)
    record_lines.push_back(record_text(r, names.at(fingerprint_hash(r.fingerprint))));
  for (const NamedImage& image : images) image_lines.push_back(image_text(image));
  std::string text =
      fmt::format("{{\n \"quern_tuning\": {},\n \"devices\": {{{}}},\n \"records\": [{}]", kVersion,
                  joined(devices), joined(record_lines));
  if (!images.empty()) text += fmt::format(",\n \"images\": [{}]", joined(image_lines));
  return text + "\n}\n";
}

std::string read_document(const std::filesystem::path& path, std::size_t max_bytes) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) fail_on_file("read", path);
  std::string bytes;
  std::array<char, 64 << 10> block;
  for (;;) {
    const ssize_t count = ::read(file.get(), block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail_on_file("read", path);
    if (count == 0) return bytes;
    bytes.append(block.data(), static_cast<std::size_t>(count));
    if (bytes.size() > max_bytes)
      throw InputError(fmt::format("{} holds more than {} bytes: that is no file of tuning records",
                                   path.string(), max_bytes));
  }
}

ImportResult parse_import(const std::string& text, ImageImport images) {
  Importer importer(outline(text), images);
  parse_document(text, kLists, [&](std::string_view list, ordered_json element) {
    return importer.take(list, std::move(element));
  });
  return importer.result();
}

}  // namespace quern
