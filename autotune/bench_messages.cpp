#include "autotune/bench_messages.h"

#include <cstdint>

#include "runtime/base/error.h"

namespace quern::bench {

std::string pack(const ordered_json& message) {
  std::string text;
  ordered_json::to_cbor(message, text);
  return text;
}

ordered_json unpack(std::string_view text) {
  ordered_json message = ordered_json::from_cbor(text.begin(), text.end(), true, false);
  if (!message.is_object()) throw Error("a message between processes is damaged");
  return message;
}

ordered_json to_message(const Verdict& verdict) {
  return {{"status", name(verdict.status)}, {"reason", verdict.reason}, {"error", verdict.error}};
}

Verdict verdict_from(const ordered_json& message) {
  const auto status = parse_trial_status(message.value("status", ""));
  if (!status) throw Error("a message between processes is damaged");
  return {*status, message.value("reason", ""), message.value("error", 0.0)};
}

ordered_json to_message(const CompiledKernel& image) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(image.image.cubin.data());
  return {{"key", image.key},
          {"cubin", ordered_json::binary({bytes, bytes + image.image.cubin.size()})},
          {"report", to_json(image.image.report)}};
}

CompiledKernel image_from(const ordered_json& message) {
  CompiledKernel image;
  image.key = message.at("key").get<std::string>();
  const auto& bytes = message.at("cubin").get_binary();
  image.image.cubin.assign(bytes.begin(), bytes.end());
  image.image.report = resource_report_from_json(message.at("report"));
  image.from_cache = true;
  return image;
}

}  // namespace quern::bench
