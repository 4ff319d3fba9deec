#include <fmt/format.h>

#include <cstring>

#include "model/safetensors.h"
#include "model/weights.h"
#include "runtime/base/error.h"
#include "runtime/base/json.h"
#include "tests/support/support.h"

using namespace quern;

namespace {

std::string file_with(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data_bytes, 'x');
}

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

bool is_refused(const std::string& file) {
  try {
    parse_safetensors(bytes_of(file), "test");
  } catch (const InputError& error) {
    CHECK_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos);
    return true;
  }
  return false;
}

}  // namespace

TEST_CASE("tensors survive being written and read") {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "a.safetensors";
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  const std::vector<std::int32_t> ids{7, 8, 9};
  const std::vector<TensorView> tensors{
      {"logits", DType::f32, {2, 3}, std::as_bytes(std::span(values))},
      {"ids", DType::i32, {3}, std::as_bytes(std::span(ids))},
      {"none", DType::bf16, {0, 4}, {}}};
  write_safetensors(path, tensors);
  const Checkpoint file(path);
  CHECK_EQ(file.tensors().size(), 3);
  CHECK(file.at("logits").shape == std::vector<std::int64_t>{2, 3});
  CHECK_EQ(file.at("logits").as<float>()[5], 6);
  CHECK_EQ(file.at("ids").as<std::int32_t>()[0], 7);
  CHECK_EQ(file.at("none").num_elements(), 0);
  CHECK_THROWS_AS(file.at("absent"), InputError);
}

TEST_CASE("a file cut off anywhere is refused") {
  const std::string whole = file_with(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})",
      11);
  CHECK_EQ(parse_safetensors(bytes_of(whole), "test").size(), 2);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    INFO("length " << length);
    CHECK(is_refused(whole.substr(0, length)));
  }
  CHECK(is_refused(whole + "y"));
}

TEST_CASE("damaged headers are refused") {
  const auto entry = [](const char* dtype, const char* shape, const char* offsets) {
    return fmt::format(R"({{"a":{{"dtype":{},"shape":{},"data_offsets":{}}}}})", dtype, shape,
                       offsets);
  };
  CHECK_FALSE(is_refused(file_with(entry("\"F32\"", "[2,1]", "[0,8]"), 8)));
  for (const std::string& header : {
           entry("\"F31\"", "[2]", "[0,8]"),
           entry("32", "[2]", "[0,8]"),
           entry("null", "[2]", "[0,8]"),
           entry("\"F32\"", "[3]", "[0,8]"),
           entry("\"F32\"", "[-2]", "[0,8]"),
           entry("\"F32\"", "[2.0]", "[0,8]"),
           entry("\"F32\"", "2", "[0,8]"),
           entry("\"F32\"", "[4611686018427387904,4]", "[0,8]"),
           entry("\"F32\"", "[18446744073709551615]", "[0,8]"),
           entry("\"F32\"", "[2]", "[8,0]"),
           entry("\"F32\"", "[2]", "[0,16]"),
           entry("\"F32\"", "[2]", "[18446744073709551608,18446744073709551615]"),
           entry("\"F32\"", "[2]", "[-8,0]"),
           entry("\"F32\"", "[2]", "[0]"),
           entry("\"F32\"", "[2]", "8"),
           std::string(R"({"a":3})"),
           std::string("[]"),
           std::string("{}"),
           std::string(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},
                          "b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})"),
           std::string(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},
                          "b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})"),
       }) {
    INFO(header);
    CHECK(is_refused(file_with(header, 8)));
  }
  CHECK(is_refused(std::string(8, '\xff') + "{}"));
}

TEST_CASE("tensors at odd addresses are readable all the same") {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "odd.safetensors";
  std::string file = file_with(
      R"({"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"f":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
      1);
  const float value = 2.5f;
  file.append(reinterpret_cast<const char*>(&value), sizeof value);
  write_file_atomically(path, file);
  CHECK_EQ(Checkpoint(path).at("f").as<float>()[0], 2.5f);
}

TEST_CASE("shards are found through the index") {
  const test::TemporaryFolder folder;
  const std::vector<float> one{1}, two{2};
  const std::vector<TensorView> first{{"a", DType::f32, {1}, std::as_bytes(std::span(one))}};
  const std::vector<TensorView> second{{"b", DType::f32, {1}, std::as_bytes(std::span(two))}};
  write_safetensors(folder.path() / "1.safetensors", first);
  write_safetensors(folder.path() / "2.safetensors", second);
  const auto write_index = [&](const json& weight_map) {
    write_file_atomically(folder.path() / "model.safetensors.index.json",
                          json{{"weight_map", weight_map}}.dump());
  };
  write_index({{"a", "1.safetensors"}, {"b", "2.safetensors"}});
  CHECK_EQ(Checkpoint(folder.path()).at("b").as<float>()[0], 2);
  for (const json& bad :
       {json{{"a", "2.safetensors"}}, json{{"a", "3.safetensors"}}, json{{"a", "../1.safetensors"}},
        json{{"a", ""}}, json{{"a", ".."}}, json{{"a", 1}}, json("a"), json(nullptr)}) {
    INFO(bad.dump());
    write_index(bad);
    CHECK_THROWS_AS(Checkpoint(folder.path()), InputError);
  }
}

TEST_CASE("weights of the bundled model have the shapes that its config says") {
  const ModelConfig config = load_config(test::bundled_model());
  const ModelWeights weights = load_weights(test::bundled_model(), config);
  CHECK_EQ(weights.layers.size(), 8);
  CHECK_EQ(std::get<TensorView>(weights.lm_head).data.data(), weights.embedding.data.data());
  ModelConfig wrong = config;
  wrong.hidden_size = 512;
  CHECK_THROWS_AS(load_weights(test::bundled_model(), wrong), InputError);
  wrong = config;
  wrong.num_layers = 9;
  CHECK_THROWS_WITH_AS(load_weights(test::bundled_model(), wrong),
                       doctest::Contains("model.layers.8.input_layernorm.weight"), InputError);
  wrong = config;
  wrong.tie_word_embeddings = false;
  CHECK_THROWS_AS(load_weights(test::bundled_model(), wrong), InputError);
  wrong = config;
  wrong.quantization = Quantization();
  CHECK_THROWS_WITH_AS(load_weights(test::bundled_model(), wrong),
                       doctest::Contains("model.layers.0.self_attn.q_proj.qweight"), InputError);
}
