#include "autotune/launch_args.h"

#include "runtime/base/error.h"
#include "runtime/tensor_map.h"

namespace quern {

std::vector<std::byte> launch_args(const Family& family, const Params& problem,
                                   const Params& config, std::span<const std::uint64_t> addresses,
                                   std::uint64_t workspace) {
  std::vector<std::byte> args = family.pack_args(problem, config, addresses, workspace);
  for (const TensorMapSpec& map : family.tensor_maps(problem, config)) {
    if (map.operand >= addresses.size() || map.offset + TensorMapSpec::kBytes > args.size())
      throw Error("a tensor map lies outside of its kernel's parameter");
    encode_tensor_map(args.data() + map.offset, map, addresses[map.operand]);
  }
  return args;
}

}  // namespace quern
