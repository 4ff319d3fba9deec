#include "cache/parse_json.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace quern::cache {
namespace {

constexpr std::size_t kMaxDepth = 8;
constexpr std::size_t kMaxKeys = 256;
constexpr std::size_t kMaxElementValues = 4096;
constexpr std::size_t kMaxOtherValues = 65536;

/// Builds the value from the parser's events. (The library's own filter callback scans all earlier
/// elements of an array after each object: quadratic.)
class Builder : public nlohmann::json_sax<ordered_json> {
 public:
  Builder() = default;
  Builder(std::span<const std::string_view> lists, const TakeElement& take)
      : lists_(lists), take_(&take) {}
  ordered_json result() { return num_other_ > kMaxOtherValues ? nullptr : std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(ordered_json::object()); }
  bool start_array(std::size_t) override { return open(ordered_json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (num_dropped_ > 0) return true;
    Open& object = open_.back();
    if (object.keys.size() == kMaxKeys || !object.keys.insert(name).second) object.faulty = true;
    object.key = std::move(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  /// An object or array that the parser is inside of.
  struct Open {
    ordered_json value;
    std::string key;  // of the member to come
    std::set<std::string> keys;
    bool faulty = false;
  };

  bool open(ordered_json empty) {
    if (num_dropped_ > 0 || open_.size() == kMaxDepth)
      ++num_dropped_;
    else
      open_.push_back({std::move(empty), {}, {}, false});
    return true;
  }

  bool close() {
    if (num_dropped_ > 0) {
      --num_dropped_;
      return true;
    }
    Open done = std::move(open_.back());
    open_.pop_back();
    return add(done.faulty ? ordered_json(nullptr) : std::move(done.value));
  }

  /// True inside a list whose elements are handed on, at whatever depth.
  bool in_list() const {
    return take_ && open_.size() >= 2 && open_[1].value.is_array() &&
           std::find(lists_.begin(), lists_.end(), open_[0].key) != lists_.end();
  }

  bool add(ordered_json value) {
    if (num_dropped_ > 0) return true;
    const bool listed = in_list();
    if (listed && open_.size() == 2) {
      const bool too_many = std::exchange(num_element_, 0) > kMaxElementValues;
      return (*take_)(open_[0].key, too_many ? ordered_json(nullptr) : std::move(value));
    }
    if (take_ && (listed ? ++num_element_ > kMaxElementValues : ++num_other_ > kMaxOtherValues))
      return true;
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Open& parent = open_.back(); parent.value.is_array()) {
      parent.value.push_back(std::move(value));
    } else if (!parent.faulty) {
      parent.value[parent.key] = std::move(value);
    }
    return true;
  }

  std::span<const std::string_view> lists_;
  const TakeElement* take_ = nullptr;  // null: everything is kept
  std::size_t num_element_ = 0;        // values of the element that the parser is in
  std::size_t num_other_ = 0;          // values outside of lists
  ordered_json root_;
  std::vector<Open> open_;
  std::size_t num_dropped_ = 0;  // how many levels too deep the parser is
};

}  // namespace

std::optional<ordered_json> parse_json(std::string_view text) {
  Builder builder;
  if (!ordered_json::sax_parse(text, &builder)) return std::nullopt;
  return builder.result();
}

std::optional<ordered_json> parse_document(std::string_view text,
                                           std::span<const std::string_view> lists,
                                           const TakeElement& take) {
  Builder builder(lists, take);
  if (!ordered_json::sax_parse(text, &builder)) return std::nullopt;
  return builder.result();
}

}  // namespace quern::cache
