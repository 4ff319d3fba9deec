#include <fmt/format.h>

#include <functional>

#include "model/safetensors.h"
#include "runtime/base/file.h"
#include "tests/cli/quern.h"

namespace fs = std::filesystem;
using namespace quern;
using quern::test::Quern;

namespace {

/// A copy of the bundled model, small files copied and the weights linked, to be damaged.
class ModelCopy {
 public:
  explicit ModelCopy(const fs::path& path) : path_(path) {
    const fs::path original = test::bundled_model();
    fs::create_directory(path);
    for (const char* name :
         {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"})
      fs::copy_file(original / name, path / name);
    fs::create_symlink(fs::absolute(original / "model.safetensors"), weights());
  }
  const fs::path& path() const { return path_; }
  fs::path weights() const { return path_ / "model.safetensors"; }
  /// Replaces a file (by a new one: the weights are a link).
  void put(const std::string& name, const std::string& bytes) const {
    fs::remove(path_ / name);
    write_file_atomically(path_ / name, bytes);
  }
  void edit_config(const std::function<void(json&)>& edit) const {
    json config = json::parse(read_file(test::bundled_model() / "config.json"));
    edit(config);
    put("config.json", config.dump());
  }

 private:
  fs::path path_;
};

void refused(const Quern& quern, const fs::path& model, const std::string& fragment) {
  const std::vector<std::string> words{"run", model, "--prompt", "x", "-n", "1", "--device", "cpu"};
  Quern::check_refusal(quern(words), 2, fragment, words);
}

}  // namespace

TEST_CASE("a copy of the model runs") {
  const Quern quern;
  const ModelCopy model(quern.path("model"));
  CHECK(quern.json_of({"run", model.path(), "--prompt", "x", "-n", "1"})["output_ids"].size() == 1);
}

TEST_CASE("what is no model folder is refused") {
  const Quern quern;
  refused(quern, quern.path("missing"), "missing");
  refused(quern, std::string(5000, 'x'), "");
  refused(quern, test::bundled_model() / "config.json", "config.json");
  fs::create_directory(quern.path("empty"));
  refused(quern, quern.path("empty"), "config.json");
  for (const char* missing : {"config.json", "tokenizer.json", "model.safetensors"}) {
    const ModelCopy model(quern.path(std::string("without_") + missing));
    fs::remove(model.path() / missing);
    refused(quern, model.path(), missing);
    fs::create_directory(model.path() / missing);
    refused(quern, model.path(), missing);
  }
}

TEST_CASE("configs without meaning are refused") {
  const Quern quern;
  const ModelCopy model(quern.path("model"));
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("null"), std::string("{}"),
        std::string("\0\xff\xfe", 3), std::string(100'000, '['),
        std::string("{\"vocab_size\": 1e999}")}) {
    model.put("config.json", text);
    refused(quern, model.path(), "config.json");
  }
  const std::vector<std::pair<const char*, std::vector<json>>> values{
      {"num_attention_heads", {0, -4, 3, 1e9, "4", nullptr, json::array(), 4.5, 1 << 30}},
      {"num_key_value_heads", {0, 3, 8, -1, true}},
      {"num_hidden_layers", {0, 1'000'000'000, -1, "8", INT64_MIN, UINT64_MAX}},
      {"hidden_size", {0, 1 << 30, INT64_MAX, 100, 257}},
      {"intermediate_size", {0, 1 << 30, INT64_MAX, -768}},
      {"vocab_size", {0, INT64_MAX, 1 << 30, 5}},
      {"head_dim", {0, 63, 1 << 20, -2, 32}},
      {"max_position_embeddings", {0, INT64_MAX, -1, "long"}},
      {"rms_norm_eps", {0, -1e-5, "small", 1e300}},
      {"architectures", {json::array(), "Llama", json::array({"GPT2LMHeadModel"}), 7}},
      {"hidden_act", {"gelu", 1}},
      {"attention_bias", {true, "no"}},
      {"rope_parameters", {7, json::object({{"rope_type", "yarn"}, {"factor", 2}})}},
      {"dtype", {"int3", 5}},
      {"eos_token_id", {4096, "end", json::array({INT64_MAX}), json::object()}},
      {"quantization_config", {json::object({{"quant_method", "x"}}), 3}},
  };
  for (const auto& [key, bad_values] : values)
    for (const json& value : bad_values) {
      CAPTURE(key);
      CAPTURE(value.dump());
      model.edit_config([&](json& config) { config[key] = value; });
      refused(quern, model.path(), "");
    }
}

TEST_CASE("shapes as large as a config may make them do not reach an allocation") {
  const Quern quern;
  const ModelCopy model(quern.path("model"));
  model.edit_config([](json& config) {
    config["num_hidden_layers"] = 4096;
    config["hidden_size"] = 1 << 20;
    config["intermediate_size"] = 1 << 20;
    config["vocab_size"] = 1 << 22;
  });
  refused(quern, model.path(), "tensor");
  // A long context costs nothing until it is used.
  model.edit_config([](json& config) { config["max_position_embeddings"] = 1 << 26; });
  CHECK(quern({"run", model.path(), "--prompt", "x", "-n", "1"}).exit_code == 0);
}

TEST_CASE("weights that were cut off are refused at any length") {
  const Quern quern;
  const ModelCopy model(quern.path("model"));
  const std::string whole = read_file(test::bundled_model() / "model.safetensors");
  for (const std::size_t length : {std::size_t{0}, std::size_t{1}, std::size_t{7}, std::size_t{8},
                                   std::size_t{9}, std::size_t{500}, std::size_t{4096},
                                   whole.size() / 2, whole.size() - 2, whole.size() - 1}) {
    CAPTURE(length);
    model.put("model.safetensors", whole.substr(0, length));
    refused(quern, model.path(), "model.safetensors");
  }
  model.put("model.safetensors", whole + "x");
  refused(quern, model.path(), "model.safetensors");
}

TEST_CASE("weights that do not fit the config are refused") {
  const Quern quern;
  const ModelCopy model(quern.path("model"));
  model.edit_config([](json& config) { config["num_hidden_layers"] = 9; });
  refused(quern, model.path(), "model.layers.8");
  model.edit_config([](json& config) { config["intermediate_size"] = 512; });
  refused(quern, model.path(), "mlp.gate_proj");
  model.edit_config([](json& config) { config["tie_word_embeddings"] = false; });
  refused(quern, model.path(), "lm_head.weight");
  model.edit_config([](json&) {});
  const Checkpoint original(test::bundled_model());
  std::vector<TensorView> most;
  for (const auto& [name, view] : original.tensors())
    if (name != "model.norm.weight") most.push_back(view);
  fs::remove(model.weights());
  write_safetensors(model.weights(), most);
  refused(quern, model.path(), "model.norm.weight");
}

TEST_CASE("tokenizers without meaning are refused") {
  const Quern quern;
  const ModelCopy model(quern.path("model"));
  const std::string whole = read_file(test::bundled_model() / "tokenizer.json");
  for (const std::string& text :
       {std::string(), std::string("{}"), std::string("[]"), std::string("{\"model\": 3}"),
        whole.substr(0, whole.size() / 2), std::string("\x89PNG\0\0", 6)}) {
    model.put("tokenizer.json", text);
    refused(quern, model.path(), "tokenizer.json");
  }
  for (const char* key : {"type", "vocab", "merges"}) {
    json tokenizer = json::parse(whole);
    tokenizer["model"][key] = 17;
    model.put("tokenizer.json", tokenizer.dump());
    refused(quern, model.path(), "tokenizer.json");
  }
}
