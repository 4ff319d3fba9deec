#include "tests/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "runtime/base/half.h"
#include "templates/attention/paged_cache.h"

namespace quern::test {
namespace {

struct Shape {
  std::int64_t num_heads, num_kv_heads, head_dim, page_size, window, max_blocks;
  bool is_bf16;
};

Shape shape_of(const Params& problem) {
  return {problem.at("num_heads"),      problem.at("num_kv_heads"), problem.at("head_dim"),
          problem.at("page_size"),      problem.at("window"),       problem.at("max_blocks"),
          problem.at("dtype") == "bf16"};
}

template <class T>
T element(const HostTensor& tensor, std::int64_t index) {
  T value;
  std::memcpy(&value, tensor.data.data() + static_cast<std::size_t>(index) * sizeof(T), sizeof(T));
  return value;
}

double activation(const Shape& s, const HostTensor& tensor, std::int64_t index) {
  const auto bits = element<std::uint16_t>(tensor, index);
  return s.is_bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

/// Attention of row `token` of operand 0 at `position` of sequence `s`, for every head.
void attend(const Shape& s, std::span<HostTensor> operands, HostTensor& out, std::int64_t token,
            std::int64_t sequence, std::int64_t position) {
  const HostTensor &q = operands[0], &k_cache = operands[1], &v_cache = operands[2],
                   &block_table = operands[3];
  const std::int64_t first = s.window > 0 ? std::max<std::int64_t>(0, position - s.window + 1) : 0;
  for (std::int64_t head = 0; head < s.num_heads; ++head) {
    const std::int64_t kv_head = head / (s.num_heads / s.num_kv_heads);
    const std::int64_t q_row = (token * s.num_heads + head) * s.head_dim;
    const auto cache_row = [&](std::int64_t j) {
      const std::int64_t page =
          element<std::int32_t>(block_table, sequence * s.max_blocks + j / s.page_size);
      return ((page * s.num_kv_heads + kv_head) * s.page_size + j % s.page_size) * s.head_dim;
    };
    std::vector<double> weights;
    double top = -HUGE_VAL, total = 0;
    for (std::int64_t j = first; j <= position; ++j) {
      double dot = 0;
      for (std::int64_t d = 0; d < s.head_dim; ++d)
        dot += activation(s, q, q_row + d) * activation(s, k_cache, cache_row(j) + d);
      weights.push_back(dot / std::sqrt(static_cast<double>(s.head_dim)));
      top = std::max(top, weights.back());
    }
    for (double& w : weights) total += w = std::exp(w - top);
    std::vector<double> sum(static_cast<std::size_t>(s.head_dim), 0.0);
    for (std::int64_t j = first; j <= position; ++j)
      for (std::int64_t d = 0; d < s.head_dim; ++d)
        sum[static_cast<std::size_t>(d)] += weights[static_cast<std::size_t>(j - first)] / total *
                                            activation(s, v_cache, cache_row(j) + d);
    for (std::int64_t d = 0; d < s.head_dim; ++d) {
      const auto value = static_cast<float>(sum[static_cast<std::size_t>(d)]);
      const std::uint16_t bits = s.is_bf16 ? f32_to_bf16(value) : f32_to_f16(value);
      std::memcpy(out.data.data() + static_cast<std::size_t>(q_row + d) * 2, &bits, 2);
    }
  }
}

}  // namespace

void decode_attention_oracle(const Params& problem, std::span<HostTensor> operands) {
  const Shape s = shape_of(problem);
  const auto& kv_len = operands[4];
  for (std::int64_t b = 0; b < problem.at("batch"); ++b)
    attend(s, operands, operands[5], b, b, element<std::int32_t>(kv_len, b) - 1);
}

void prefill_attention_oracle(const Params& problem, std::span<HostTensor> operands) {
  const Shape s = shape_of(problem);
  for (std::int64_t b = 0; b < problem.at("batch"); ++b) {
    const std::int64_t start = element<std::int32_t>(operands[4], b);
    const std::int64_t query_len = element<std::int32_t>(operands[4], b + 1) - start;
    for (std::int64_t i = 0; i < query_len; ++i)
      attend(s, operands, operands[6], start + i, b,
             element<std::int32_t>(operands[5], b) - query_len + i);
  }
}

namespace {

int blocks_for(const std::vector<std::int32_t>& kv_len, int page_size) {
  const int longest = *std::max_element(kv_len.begin(), kv_len.end());
  return std::max(1, (longest + page_size - 1) / page_size) + 1;
}

/// One cache as bit patterns, two elements a word: normal values at the positions first[s] to
/// kv_len[s] - 1 of each sequence, loud garbage everywhere else.
std::vector<std::int32_t> loud_cache(const Params& problem, const std::vector<std::int32_t>& table,
                                     const std::vector<std::int32_t>& first,
                                     const std::vector<std::int32_t>& kv_len, std::uint32_t seed) {
  const Shape s = shape_of(problem);
  const std::int64_t row_elements = s.head_dim, num_pages = problem.at("num_pages");
  std::vector<std::uint16_t> bits(
      static_cast<std::size_t>(num_pages * s.num_kv_heads * s.page_size * row_elements));
  const auto to_bits = [&](float x) { return s.is_bf16 ? f32_to_bf16(x) : f32_to_f16(x); };
  const std::uint16_t loud[] = {0x7fff, 0xffff, to_bits(HUGE_VALF), to_bits(1e30f), to_bits(-6e4f)};
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = loud[i % std::size(loud)];
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (std::size_t b = 0; b < kv_len.size(); ++b)
    for (std::int64_t j = first[b]; j < kv_len[b]; ++j)
      for (std::int64_t head = 0; head < s.num_kv_heads; ++head) {
        const std::int64_t page = table[b * static_cast<std::size_t>(s.max_blocks) +
                                        static_cast<std::size_t>(j / s.page_size)];
        const std::int64_t row = (page * s.num_kv_heads + head) * s.page_size + j % s.page_size;
        for (std::int64_t d = 0; d < row_elements; ++d)
          bits[static_cast<std::size_t>(row * row_elements + d)] = to_bits(normal(random));
      }
  std::vector<std::int32_t> words(bits.size() / 2);
  std::memcpy(words.data(), bits.data(), bits.size() * 2);
  return words;
}

void set_cache(std::vector<OperandSpec>& operands, const Params& problem,
               const std::vector<std::int32_t>& first, const std::vector<std::int32_t>& kv_len) {
  operands[3].values = scrambled_block_table(kv_len, problem.at("max_blocks"),
                                             problem.at("num_pages"), problem.at("page_size"));
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}}) {
    operands[i].dtype = DType::i32;
    operands[i].shape.back() /= 2;
    operands[i].values =
        loud_cache(problem, operands[3].values, first, kv_len, static_cast<std::uint32_t>(i));
  }
}

}  // namespace

Params DecodeTrial::problem(int num_heads, int num_kv_heads, int head_dim, int page_size,
                            int window, DType dtype) const {
  DecodeAttentionProblem p;
  p.batch = static_cast<int>(kv_len_.size());
  p.max_blocks = blocks_for(kv_len_, page_size);
  p.num_pages = p.batch * p.max_blocks + 1;
  p.max_kv_len = std::max(1, *std::max_element(kv_len_.begin(), kv_len_.end()));
  p.num_heads = num_heads, p.num_kv_heads = num_kv_heads, p.head_dim = head_dim;
  p.page_size = page_size, p.window = window, p.dtype = dtype;
  return to_params(p);
}

std::vector<OperandSpec> DecodeTrial::operands(const Params& problem) const {
  auto operands = DecodeAttentionFamily::operands(problem);
  operands[4].values = kv_len_;
  const int window = problem.at("window");
  std::vector<std::int32_t> first;
  for (const int length : kv_len_) first.push_back(window > 0 ? std::max(0, length - window) : 0);
  set_cache(operands, problem, first, kv_len_);
  return operands;
}

Params PrefillTrial::problem(int num_heads, int num_kv_heads, int head_dim, int page_size,
                             int window, DType dtype) const {
  PrefillAttentionProblem p;
  std::vector<std::int32_t> kv_len;
  for (std::size_t s = 0; s < past_.size(); ++s) kv_len.push_back(past_[s] + query_len_[s]);
  p.batch = static_cast<int>(past_.size());
  p.num_tokens = std::accumulate(query_len_.begin(), query_len_.end(), 0);
  p.max_query_len = *std::max_element(query_len_.begin(), query_len_.end());
  p.max_blocks = blocks_for(kv_len, page_size);
  p.num_pages = p.batch * p.max_blocks + 1;
  p.num_heads = num_heads, p.num_kv_heads = num_kv_heads, p.head_dim = head_dim;
  p.page_size = page_size, p.window = window, p.dtype = dtype;
  return to_params(p);
}

std::vector<OperandSpec> PrefillTrial::operands(const Params& problem) const {
  auto operands = PrefillAttentionFamily::operands(problem);
  const int window = problem.at("window");
  std::vector<std::int32_t> query_start{0}, kv_len, first;
  for (std::size_t s = 0; s < past_.size(); ++s) {
    query_start.push_back(query_start.back() + query_len_[s]);
    kv_len.push_back(past_[s] + query_len_[s]);
    first.push_back(window > 0 ? std::max(0, past_[s] + 1 - window) : 0);
  }
  operands[4].values = query_start;
  operands[5].values = kv_len;
  set_cache(operands, problem, first, kv_len);
  return operands;
}

}  // namespace quern::test
