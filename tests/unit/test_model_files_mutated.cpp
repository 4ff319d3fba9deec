#include <fmt/format.h>

#include <array>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/safetensors.h"
#include "model/tokenizer.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

/// Every place in a document, the whole of it included.
void list_places(const json& value, const json::json_pointer& at,
                 std::vector<json::json_pointer>& out) {
  out.push_back(at);
  if (value.is_object())
    for (const auto& [key, member] : value.items()) list_places(member, at / key, out);
  if (value.is_array())
    for (std::size_t i = 0; i < value.size(); ++i) list_places(value[i], at / i, out);
}

/// Puts each of a set of odd values at each place, then removes the place. `load` must succeed or
/// throw InputError; any other exception, a crash or a hang fails the test.
template <class Load>
void mutate_everywhere(const json& document, const Load& load) {
  const std::array<json, 12> odd_values{json(nullptr),    json(true),     json(-1),
                                        json(0),          json(1e308),    json(1u << 31),
                                        json(UINT64_MAX), json(""),       json("\u2581\U0001f999"),
                                        json::array(),    json::object(), json({{"a", 1}})};
  std::vector<json::json_pointer> places;
  list_places(document, json::json_pointer(), places);
  int refused = 0;
  const auto try_load = [&](const json& changed) {
    try {
      load(changed);
    } catch (const InputError& error) {
      ++refused;
      CHECK_FALSE(std::string(error.what()).empty());
    }
  };
  for (const auto& place : places) {
    INFO("at " << place.to_string());
    for (const json& value : odd_values) {
      json changed = document;
      changed[place] = value;
      try_load(changed);
    }
    if (place.empty() || document.at(place.parent_pointer()).is_array()) continue;
    json changed = document;
    changed.at(place.parent_pointer()).erase(place.back());
    try_load(changed);
  }
  CHECK_GT(refused, static_cast<int>(places.size()));
}

/// A byte-level tokenizer with two merges: small enough to change every value of it.
json small_tokenizer() {
  json file = json::parse(read_file(test::bundled_model() / "tokenizer.json"));
  json& model = file["model"];
  json vocab = json::object();
  for (const auto& [token, id] : model["vocab"].items())
    if (id.get<int>() < 258) vocab[token] = id;
  model["vocab"] = vocab;
  model["merges"].erase(model["merges"].begin() + 2, model["merges"].end());
  file["added_tokens"].erase(file["added_tokens"].begin() + 2, file["added_tokens"].end());
  for (std::size_t i = 0; i < 2; ++i) file["added_tokens"][i]["id"] = 258 + i;
  file["post_processor"]["processors"][1]["special_tokens"]["<|begin_of_text|>"]["ids"] = {258};
  return file;
}

}  // namespace

TEST_CASE("a config with any value changed is read or refused") {
  json config = json::parse(read_file(test::bundled_model() / "config.json"));
  mutate_everywhere(config, [](const json& changed) { parse_config(changed); });
  config["quantization_config"] = json::parse(R"({"quant_method": "gptq", "bits": 4,
    "group_size": 128, "sym": true, "desc_act": false, "checkpoint_format": "gptq",
    "lm_head": false, "modules_in_block_to_quantize": [["mlp.up_proj"]], "dynamic": {}})");
  mutate_everywhere(config, [](const json& changed) { parse_config(changed); });
  config["quantization_config"] = json::parse(R"({"quant_method": "awq", "bits": 4,
    "group_size": 128, "zero_point": true, "version": "gemm", "modules_to_not_convert": ["a"]})");
  mutate_everywhere(config, [](const json& changed) { parse_config(changed); });
}

TEST_CASE("a tokenizer with any value changed works or is refused") {
  const json file = small_tokenizer();
  const Tokenizer intact(file, "tokenizer.json");
  const std::string text = "the llama<|end_of_text|> \xf0\x9f\xa6\x99 12345\n\n";
  CHECK_EQ(intact.decode(intact.encode(text, {.add_bos = true, .parse_special = false})), text);
  mutate_everywhere(file, [&](const json& changed) {
    const Tokenizer tokenizer(changed, "tokenizer.json");
    tokenizer.decode(tokenizer.encode(text));
  });
}

TEST_CASE("a safetensors header with any byte changed is read or refused") {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "a.safetensors";
  const std::array<float, 6> values{};
  const std::vector<TensorView> tensors{
      {"a", DType::f32, {2, 2}, std::as_bytes(std::span(values).first(4))},
      {"b", DType::bf16, {4}, std::as_bytes(std::span(values).last(2))}};
  write_safetensors(path, tensors);
  const std::string intact = read_file(path);
  for (std::size_t i = 0; i < intact.size() - sizeof values; ++i) {
    for (unsigned flip = 1; flip < 256; flip *= 2) {
      std::string changed = intact;
      changed[i] = static_cast<char>(static_cast<unsigned char>(changed[i]) ^ flip);
      try {
        parse_safetensors(std::as_bytes(std::span(changed)), "a");
      } catch (const InputError&) {
      }
    }
  }
  CHECK_EQ(parse_safetensors(std::as_bytes(std::span(intact)), "a").size(), 2);
}
