#include "tests/reference/rope.h"

#include "tests/support/gpu.h"

namespace quern::test {

void rope_append_oracle(const Params& problem, std::span<HostTensor> operands) {
  const DType dtype = parse_dtype(problem.at("dtype").get<std::string>()).value();
  const auto integer = [&](const char* field) { return problem.at(field).get<std::size_t>(); };
  const std::size_t heads = integer("num_heads"), kv_heads = integer("num_kv_heads");
  const std::size_t dim = integer("head_dim"), page_size = integer("page_size"), half = dim / 2;
  const auto ints = [&](std::size_t i) {
    return reinterpret_cast<const std::int32_t*>(operands[i].data.data());
  };
  const auto x = decode(operands[0].data, operands[0].spec.dtype), table = decode(operands[1].data, DType::f32);
  auto projected = x;
  if (problem.at("bias").get<bool>()) {
    const auto bias = decode(operands[8].data, dtype);
    for (std::size_t i = 0; i < projected.size(); ++i) projected[i] += bias[i % bias.size()];
  }
  auto k_cache = decode(operands[5].data, dtype), v_cache = decode(operands[6].data, dtype);
  auto q = decode(operands[7].data, dtype);
  for (std::size_t token = 0; token < integer("num_tokens"); ++token) {
    if (ints(3)[token] < 0) continue;
    const auto row = static_cast<std::size_t>(ints(3)[token]);
    const auto position = static_cast<std::size_t>(ints(2)[token]);
    const auto page =
        static_cast<std::size_t>(ints(4)[row * integer("max_blocks") + position / page_size]);
    for (std::size_t d = 0; d < dim; ++d) {
      const float c = table[(position * half + d % half) * 2];
      const float s = table[(position * half + d % half) * 2 + 1];
      const auto rotated = [&](std::size_t head) {
        const float* from = &projected[(token * (heads + 2 * kv_heads) + head) * dim];
        return d < half ? from[d] * c - from[d + half] * s : from[d] * c + from[d - half] * s;
      };
      for (std::size_t head = 0; head < heads; ++head)
        q[(token * heads + head) * dim + d] = rotated(head);
      for (std::size_t head = 0; head < kv_heads; ++head) {
        const std::size_t slot =
            ((page * kv_heads + head) * page_size + position % page_size) * dim + d;
        k_cache[slot] = rotated(heads + head);
        v_cache[slot] = projected[(token * (heads + 2 * kv_heads) + heads + kv_heads + head) * dim + d];
      }
    }
  }
  operands[5].data = encode(k_cache, dtype);
  operands[6].data = encode(v_cache, dtype);
  operands[7].data = encode(q, dtype);
}

}  // namespace quern::test
