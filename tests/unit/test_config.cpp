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

TEST_CASE("quantization_config of AWQ and GPTQ is read in full") {
  const auto read = [](const json& quantization) {
    json config = valid();
    config["quantization_config"] = quantization;
    return parse_config(config).quantization.value();
  };
  const Quantization awq = read({{"quant_method", "awq"},
                                 {"bits", 4},
                                 {"group_size", 64},
                                 {"zero_point", true},
                                 {"version", "GEMM"},
                                 {"modules_to_not_convert", {"layers.3.mlp", "lm_head"}}});
  CHECK(awq.method == QuantMethod::awq);
  CHECK_EQ(awq.text(), "AWQ, 4 bits, group 64");
  CHECK(awq.zero_points);
  CHECK(awq.applies_to("model.layers.2.mlp.up_proj"));
  CHECK_FALSE(awq.applies_to("model.layers.3.mlp.up_proj"));
  CHECK_FALSE(awq.applies_to("lm_head"));

  const Quantization first = read({{"quant_method", "gptq"}, {"bits", 8}, {"group_size", -1}});
  CHECK_EQ(first.text(), "GPTQ, 8 bits, per channel, symmetric");
  CHECK(first.zeros_minus_one);
  CHECK_EQ(first.inputs_per_group(4096), 4096);
  const Quantization second = read({{"quant_method", "gptq"},
                                    {"bits", 4},
                                    {"sym", false},
                                    {"desc_act", true},
                                    {"checkpoint_format", "gptq_v2"},
                                    {"lm_head", true},
                                    {"modules_in_block_to_quantize",
                                     {{"self_attn.q_proj", "self_attn.v_proj"}, {"mlp.up_proj"}}}});
  CHECK_EQ(second.text(), "GPTQ, 4 bits, group 128, act-order");
  CHECK(second.zero_points);
  CHECK_FALSE(second.zeros_minus_one);
  CHECK(second.applies_to("lm_head"));
  CHECK(second.applies_to("model.layers.7.self_attn.v_proj"));
  CHECK_FALSE(second.applies_to("model.layers.7.self_attn.o_proj"));
}

TEST_CASE("quantisation that is not supported is refused in a sentence that names it") {
  const json awq = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", 128}};
  const json gptq = {{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 128}};
  struct Case {
    json base;
    const char* key;
    json value;
  };
  const std::vector<Case> cases{
      {awq, "quant_method", "fp8"},
      {awq, "quant_method", 4},
      {awq, "quant_method", nullptr},
      {awq, "version", "gemv"},
      {awq, "version", 1},
      {awq, "bits", 8},
      {awq, "bits", "4"},
      {awq, "bits", INT64_MAX},
      {awq, "group_size", 0},
      {awq, "group_size", 48},
      {awq, "group_size", -2},
      {awq, "zero_point", false},
      {awq, "zero_point", "no"},
      {awq, "modules_to_not_convert", "lm_head"},
      {awq, "modules_to_not_convert", {1, 2}},
      {awq, "modules_to_not_convert", {""}},
      {gptq, "bits", 3},
      {gptq, "bits", nullptr},
      {gptq, "group_size", 256},
      {gptq, "sym", 1},
      {gptq, "desc_act", "true"},
      {gptq, "checkpoint_format", "marlin"},
      {gptq, "checkpoint_format", json::array()},
      {gptq, "is_marlin_format", true},
      {gptq, "modules_in_block_to_quantize", {{"a"}, {3}}},
      {gptq, "dynamic", {{"-:.*down", json::object()}}},
      {gptq, "dynamic", 3},
  };
  for (const auto& [base, key, value] : cases) {
    json config = valid();
    config["quantization_config"] = base;
    config["quantization_config"][key] = value;
    const std::string sentence = refusal(config);
    INFO(key << " = " << value.dump() << ": " << sentence);
    CHECK(sentence.find(key) != std::string::npos);
    CHECK(sentence.find("quantization_config") != std::string::npos);
    CHECK_EQ(sentence.find('\n'), std::string::npos);
  }
  json tied = valid();
  tied["tie_word_embeddings"] = true;
  tied["quantization_config"] = gptq;
  tied["quantization_config"]["lm_head"] = true;
  CHECK_FALSE(refusal(tied).empty());
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
