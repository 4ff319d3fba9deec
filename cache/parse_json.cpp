#include "cache/parse_json.h"

#include <set>
#include <string>
#include <utility>
#include <vector>

namespace quern::cache {
namespace {

constexpr std::size_t kMaxDepth = 8;
constexpr std::size_t kMaxKeys = 256;

/// Builds the value from the parser's events. (The library's own filter callback scans all earlier
/// elements of an array after each object: quadratic.)
class Builder : public nlohmann::json_sax<ordered_json> {
 public:
  ordered_json take() { return std::move(root_); }

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

  bool add(ordered_json value) {
    if (num_dropped_ > 0) return true;
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Open& parent = open_.back(); parent.value.is_array()) {
      parent.value.push_back(std::move(value));
    } else if (!parent.faulty) {
      parent.value[parent.key] = std::move(value);
    }
    return true;
  }

  ordered_json root_;
  std::vector<Open> open_;
  std::size_t num_dropped_ = 0;  // how many levels too deep the parser is
};

}  // namespace

std::optional<ordered_json> parse_json(std::string_view text) {
  Builder builder;
  if (!ordered_json::sax_parse(text, &builder)) return std::nullopt;
  return builder.take();
}

}  // namespace quern::cache
