#include <fmt/format.h>

#include "model/config.h"
#include "runtime/base/error.h"
#include "runtime/base/file.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

json valid() {
  return json::parse(R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 512,
    "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 5, "num_attention_heads": 8,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "eos_token_id": 2})");
}

/// The sentence with which a config is refused; empty if it is not.
std::string refusal(const json& config) {
  try {
    parse_config(config);
  } catch (const InputError& error) {
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("a config fills in what it leaves out") {
  const ModelConfig config = parse_config(valid());
  CHECK_EQ(config.num_kv_heads, 8);
  CHECK_EQ(config.head_dim, 8);
  CHECK_EQ(config.rope_theta, 10000);
  CHECK_FALSE(config.rope_scaling.has_value());
  CHECK_FALSE(config.sliding_window.has_value());
  CHECK_FALSE(config.tie_word_embeddings);
  CHECK(config.stop_token_ids == std::vector<std::int32_t>{2});
}

TEST_CASE("both spellings of rotary embeddings mean the same") {
  json old_style = valid(), new_style = valid();
  old_style["rope_theta"] = 500000.0;
  old_style["rope_scaling"] = {{"rope_type", "llama3"},
                               {"factor", 8},
                               {"low_freq_factor", 1},
                               {"high_freq_factor", 4},
                               {"original_max_position_embeddings", 64}};
  new_style["rope_parameters"] = old_style["rope_scaling"];
  new_style["rope_parameters"]["rope_theta"] = 500000.0;
  for (const json& config_json : {old_style, new_style}) {
    const ModelConfig config = parse_config(config_json);
    CHECK_EQ(config.rope_theta, 500000.0);
    REQUIRE(config.rope_scaling.has_value());
    CHECK_EQ(config.rope_scaling->factor, 8);
    CHECK_EQ(config.rope_scaling->original_max_position_embeddings, 64);
  }
}

TEST_CASE("Mistral's sliding window: given, null and absent") {
  json config = valid();
  config["architectures"] = {"MistralForCausalLM"};
  CHECK_EQ(parse_config(config).sliding_window.value(), 4096);
  config["sliding_window"] = 24;
  CHECK_EQ(parse_config(config).sliding_window.value(), 24);
  config["sliding_window"] = nullptr;
  CHECK_FALSE(parse_config(config).sliding_window.has_value());
}

TEST_CASE("absurd configs are refused with a sentence that names the key") {
  struct Case {
    const char* key;
    json value;
  };
  const std::vector<Case> cases{
      {"vocab_size", 0},
      {"vocab_size", 1e9},
      {"vocab_size", "512"},
      {"vocab_size", json::array()},
      {"vocab_size", true},
      {"hidden_size", 0},
      {"hidden_size", -64},
      {"hidden_size", 65},
      {"hidden_size", (1 << 20) + 1},
      {"hidden_size", 18446744073709551615u},
      {"intermediate_size", 0},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", 1000000000},
      {"num_attention_heads", 0},
      {"num_key_value_heads", 0},
      {"num_key_value_heads", 3},
      {"head_dim", 7},
      {"head_dim", 0},
      {"head_dim", 1 << 20},
      {"max_position_embeddings", 0},
      {"max_position_embeddings", 1.5},
      {"rms_norm_eps", 0},
      {"rms_norm_eps", -1e-5},
      {"rms_norm_eps", "small"},
      {"rope_theta", 0},
      {"rope_theta", 1e300},
      {"rope_theta", json::object()},
      {"attention_bias", true},
      {"mlp_bias", true},
      {"mlp_bias", 1},
      {"hidden_act", "gelu"},
      {"eos_token_id", 512},
      {"eos_token_id", {2, "3"}},
      {"bos_token_id", -7},
      {"dtype", "int8"},
      {"architectures", {"GPT2LMHeadModel"}},
      {"architectures", json::array()},
      {"architectures", "LlamaForCausalLM"},
      {"rope_scaling", {{"type", "yarn"}}},
      {"rope_scaling", {{"rope_type", "llama3"}}},
      {"rope_scaling", 8},
      {"quantization_config", {{"bits", 4}}},
      {"tie_word_embeddings", "yes"},
  };
  for (const auto& [key, value] : cases) {
    json config = valid();
    config[key] = value;
    const std::string sentence = refusal(config);
    INFO(key << " = " << value.dump() << ": " << sentence);
    CHECK_FALSE(sentence.empty());
    const bool names_key = sentence.find(key) != std::string::npos ||
                           std::string_view(key) == "architectures" ||
                           std::string_view(key) == "quantization_config";
    CHECK(names_key);
    CHECK_EQ(sentence.find('\n'), std::string::npos);
  }
}

TEST_CASE("missing keys and other JSON are refused") {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "max_position_embeddings", "rms_norm_eps"}) {
    json config = valid();
    config.erase(key);
    CHECK_EQ(refusal(config), fmt::format("config.json lacks \"{}\"", key));
  }
  CHECK_FALSE(refusal(json::array()).empty());
  CHECK_FALSE(refusal(json(nullptr)).empty());
}

TEST_CASE("a model folder's config: bundled, absent, not JSON, too large a number") {
  const ModelConfig config = load_config(test::bundled_model());
  CHECK_EQ(config.num_layers, 8);
  CHECK_EQ(config.rope_theta, 500000);
  CHECK(config.tie_word_embeddings);
  CHECK(config.stop_token_ids == std::vector<std::int32_t>{4081, 4089});
  const test::TemporaryFolder folder;
  CHECK_THROWS_AS(load_config(folder.path() / "absent"), InputError);
  CHECK_THROWS_AS(load_config(folder.path()), InputError);
  for (const char* text : {"", "{", "[1]", "{\"vocab_size\": 1e999}", "\xff"}) {
    write_file_atomically(folder.path() / "config.json", text);
    CHECK_THROWS_AS(load_config(folder.path()), InputError);
  }
}

TEST_CASE("stop ids come from both files") {
  const test::TemporaryFolder folder;
  write_file_atomically(folder.path() / "config.json", valid().dump());
  write_file_atomically(folder.path() / "generation_config.json", R"({"eos_token_id": [7, 2, 9]})");
  CHECK(load_config(folder.path()).stop_token_ids == std::vector<std::int32_t>{2, 7, 9});
}
