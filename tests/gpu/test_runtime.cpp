#include <chrono>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "runtime/bandwidth.h"
#include "runtime/base/error.h"
#include "runtime/cublaslt.h"
#include "runtime/graph.h"
#include "tests/support/gpu.h"

using namespace quern;
using namespace quern::test;

namespace {

constexpr const char* kSource = R"(
struct AddArgs { const float *a, *b; float* y; int n; };
extern "C" __global__ void add(AddArgs args) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < args.n) args.y[i] = args.a[i] + args.b[i];
}

// Reverses n floats through dynamic shared memory.
struct ReverseArgs { float* y; int n; };
extern "C" __global__ void reverse(ReverseArgs args) {
  extern __shared__ float tile[];
  for (int i = threadIdx.x; i < args.n; i += blockDim.x) tile[i] = args.y[i];
  __syncthreads();
  for (int i = threadIdx.x; i < args.n; i += blockDim.x) args.y[i] = tile[args.n - 1 - i];
}

struct ClusterArgs { unsigned* blocks_per_cluster; };
extern "C" __global__ void cluster_size(ClusterArgs args) {
#if __CUDA_ARCH__ >= 900
  unsigned size;
  asm volatile("mov.u32 %0, %%cluster_nctaid.x;" : "=r"(size));
  if (threadIdx.x == 0) args.blocks_per_cluster[blockIdx.x] = size;
#endif
}

// y = 3 x + 1, late: the next kernel is let in long before the result is written, so one that does
// not wait reads what was there before.
struct StepArgs { const int* x; int* y; int n; };
extern "C" __global__ void late_step(StepArgs args) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
  const long long start = clock64();
  while (clock64() - start < 20000) {
  }
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < args.n) args.y[i] = 3 * args.x[i] + 1;
}
)";

struct AddArgs {
  CUdeviceptr a, b, y;
  int n;
};
struct ReverseArgs {
  CUdeviceptr y;
  int n;
};
struct ClusterArgs {
  CUdeviceptr blocks_per_cluster;
};
struct StepArgs {
  CUdeviceptr x, y;
  int n;
};

struct Fixture : GpuFixture {
  Module module = Module(compile(kSource, "add", arch()).cubin);
  CUfunction add = module.function("add");

  static LaunchPlan plan_for(int n) {
    LaunchPlan plan;
    plan.grid[0] = static_cast<unsigned>((n + 255) / 256);
    plan.block[0] = 256;
    return plan;
  }
  /// That the context still computes.
  void check_alive() {
    const int n = 1000;
    const std::vector<float> a = random_values(n, 1), b = random_values(n, 2);
    const Buffer device_a = upload(a, stream), device_b = upload(b, stream);
    const GuardedBuffer y(n * sizeof(float), stream);
    launch(stream, add, plan_for(n),
           AddArgs{device_a.address(), device_b.address(), y.address(), n});
    std::vector<float> expected(n);
    for (int i = 0; i < n; ++i) expected[i] = a[i] + b[i];
    CHECK(y.download<float>(stream) == expected);
    CHECK(y.intact(stream));
  }
};

}  // namespace

TEST_CASE("devices describe themselves") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const auto all = devices();
  REQUIRE_FALSE(all.empty());
  for (const DeviceInfo& info : all) {
    CAPTURE(info.fingerprint().dump());
    CHECK_FALSE(info.name.empty());
    CHECK(info.uuid.size() == 40);
    CHECK(info.num_sms > 0);
    CHECK(info.l2_bytes > 0);
    CHECK(info.memory_bytes > std::size_t{1} << 30);
    CHECK(info.smem_per_block_bytes >= 99 * 1024);
    CHECK(info.driver_version >= 12000);
    CHECK(info.arch().num_sms == info.num_sms);
  }
  const auto count = static_cast<int>(all.size());
  CHECK_THROWS_AS(Context{count}, DeviceError);
  CHECK_THROWS_AS(Context{-1}, DeviceError);
}

TEST_CASE("a kernel is loaded and launched") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  for (const int n : {1, 255, 1000, 100003}) {
    CAPTURE(n);
    const auto size = static_cast<std::size_t>(n);
    const std::vector<float> a = random_values(size, 3), b = random_values(size, 4);
    const Buffer device_a = upload(a, gpu.stream), device_b = upload(b, gpu.stream);
    const GuardedBuffer y(size * sizeof(float), gpu.stream);
    CHECK(std::isnan(y.download<float>(gpu.stream)[size - 1]));
    launch(gpu.stream, gpu.add, gpu.plan_for(n),
           AddArgs{device_a.address(), device_b.address(), y.address(), n});
    std::vector<float> expected(size);
    for (std::size_t i = 0; i < size; ++i) expected[i] = a[i] + b[i];
    CHECK(y.download<float>(gpu.stream) == expected);
    CHECK(y.intact(gpu.stream));
  }
}

TEST_CASE("more than 48 KB of shared memory is asked for by the launch itself") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  const int n = 24000;
  const std::vector<float> values = random_values(n, 5);
  const std::vector<float> expected(values.rbegin(), values.rend());
  LaunchPlan plan;
  plan.block[0] = 512;
  plan.smem_bytes = n * sizeof(float);
  for (const bool in_graph : {false, true}) {
    CAPTURE(in_graph);
    const Module fresh(compile(kSource, "reverse", gpu.arch()).cubin);
    const CUfunction reverse = fresh.function("reverse");
    const Buffer y = upload(values, gpu.stream);
    const ReverseArgs args{y.address(), n};
    if (in_graph) {
      Graph graph;
      graph.add_kernel(reverse, plan, &args, sizeof args, {});
      const GraphExec exec(graph);
      exec.launch(gpu.stream);
      gpu.stream.synchronize();
    } else {
      launch(gpu.stream, reverse, plan, args);
    }
    CHECK(download<float>(y.address(), n, gpu.stream) == expected);
  }
  plan.smem_bytes = 1 << 20;
  CHECK_THROWS_AS(launch(gpu.stream, gpu.module.function("reverse"), plan, ReverseArgs{}),
                  CudaError);
  gpu.check_alive();
}

TEST_CASE("clusters reach launches, captures and explicit nodes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  if (gpu.arch().cc() < 90) {
    MESSAGE("this GPU has no clusters");
    return;
  }
  const CUfunction function = gpu.module.function("cluster_size");
  LaunchPlan plan;
  plan.block[0] = 32;
  for (const unsigned cluster : {1u, 2u, 4u}) {
    CAPTURE(cluster);
    plan.grid[0] = 3 * cluster;
    plan.cluster = cluster;
    const std::vector<unsigned> expected(plan.grid[0], cluster);
    for (const int way : {0, 1, 2}) {
      CAPTURE(way);
      const GuardedBuffer sizes(plan.grid[0] * sizeof(unsigned), gpu.stream);
      const ClusterArgs args{sizes.address()};
      if (way == 0) {
        launch(gpu.stream, function, plan, args);
      } else if (way == 1) {
        const Graph graph =
            Graph::capture(gpu.stream, [&] { launch(gpu.stream, function, plan, args); });
        const GraphExec exec(graph);
        exec.launch(gpu.stream);
        gpu.stream.synchronize();
      } else {
        Graph graph;
        graph.add_kernel(function, plan, &args, sizeof args, {});
        const GraphExec exec(graph);
        exec.launch(gpu.stream);
        gpu.stream.synchronize();
      }
      CHECK(sizes.download<unsigned>(gpu.stream) == expected);
      CHECK(sizes.intact(gpu.stream));
    }
  }
}

TEST_CASE("a graph is built from explicit nodes") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  const int n = 777;
  const std::vector<float> a = random_values(n, 6), b = random_values(n, 7);
  const Buffer device_a = upload(a, gpu.stream), device_b = upload(b, gpu.stream);
  const GuardedBuffer sum(n * sizeof(float), gpu.stream), twice(n * sizeof(float), gpu.stream);
  GraphExec exec;
  CHECK_FALSE(exec);
  {
    Graph graph;
    CUgraphNode first = nullptr;
    {
      const AddArgs args{device_a.address(), device_b.address(), sum.address(), n};
      first = graph.add_kernel(gpu.add, gpu.plan_for(n), &args, sizeof args, {});
    }
    {
      const AddArgs args{sum.address(), sum.address(), twice.address(), n};
      graph.add_kernel(gpu.add, gpu.plan_for(n), &args, sizeof args, {first});
    }
    CHECK(graph.num_nodes() == 2);
    exec = GraphExec(graph);
  }
  CHECK(exec);
  exec.launch(gpu.stream);
  exec.launch(gpu.stream);
  std::vector<float> expected(n);
  for (int i = 0; i < n; ++i) expected[i] = 2 * (a[i] + b[i]);
  CHECK(twice.download<float>(gpu.stream) == expected);
  CHECK(sum.intact(gpu.stream));
  CHECK(twice.intact(gpu.stream));
}

TEST_CASE("a stream is captured and replayed") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  const int n = 4096;
  const std::size_t bytes = n * sizeof(float);
  const std::vector<float> a = random_values(n, 8);
  const Buffer device_a = upload(a, gpu.stream),
               ones = upload(std::vector<float>(n, 1.0f), gpu.stream);
  const GuardedBuffer x(bytes, gpu.stream), y(bytes, gpu.stream);
  const Graph graph = Graph::capture(gpu.stream, [&] {
    copy_on_device(x.address(), device_a.address(), bytes, gpu.stream);
    launch(gpu.stream, gpu.add, gpu.plan_for(n),
           AddArgs{x.address(), ones.address(), y.address(), n});
  });
  CHECK(graph.num_nodes() == 2);
  CHECK(std::isnan(y.download<float>(gpu.stream)[0]));  // recorded, not run
  const GraphExec exec(graph);
  exec.launch(gpu.stream);
  std::vector<float> expected(n);
  for (int i = 0; i < n; ++i) expected[i] = a[i] + 1;
  CHECK(y.download<float>(gpu.stream) == expected);
  CHECK(y.intact(gpu.stream));

  const auto failing = [&] {
    launch(gpu.stream, gpu.add, gpu.plan_for(n), AddArgs{x.address(), x.address(), y.address(), n});
    throw std::logic_error("from the body");
  };
  CHECK_THROWS_AS(Graph::capture(gpu.stream, failing), std::logic_error);
  CHECK_THROWS_AS(Graph::capture(gpu.stream, [&] { gpu.stream.synchronize(); }), CudaError);
  gpu.check_alive();
}

TEST_CASE("a captured chain with programmatic dependent launch keeps its order") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  const int n = 1500;
  const std::size_t bytes = n * sizeof(int);
  std::vector<int> expected(n);
  for (int i = 0; i < n; ++i) expected[i] = i;
  const Buffer x = upload(expected, gpu.stream);
  const GuardedBuffer y(bytes, gpu.stream);
  LaunchPlan plan = Fixture::plan_for(n);
  plan.pdl = gpu.arch().has_pdl();
  const CUfunction step = gpu.module.function("late_step");
  const auto chain = [&] {
    for (int i = 0; i < 2; ++i) {
      launch(gpu.stream, step, plan, StepArgs{x.address(), y.address(), n});
      launch(gpu.stream, step, plan, StepArgs{y.address(), x.address(), n});
    }
  };
  const auto four_steps = [&] {
    for (int& value : expected)
      for (int i = 0; i < 4; ++i) value = static_cast<int>(3u * static_cast<unsigned>(value) + 1);
  };
  const Graph graph = Graph::capture(gpu.stream, chain);
  CHECK(graph.num_nodes() == 4);
  const GraphExec exec(graph);
  for (int launches = 0; launches < 20; ++launches) {
    exec.launch(gpu.stream);
    four_steps();
  }
  chain();  // the same without a graph
  four_steps();
  CHECK(download<int>(x.address(), n, gpu.stream) == expected);
  CHECK(y.intact(gpu.stream));
}

TEST_CASE("events time what lies between them") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  const Buffer buffer(std::size_t{64} << 20);
  const Event start, end;
  start.record(gpu.stream);
  for (int i = 0; i < 10; ++i) fill_bytes(buffer.address(), 1, buffer.size_bytes(), gpu.stream);
  end.record(gpu.stream);
  end.synchronize();
  CHECK(start.ready());
  CHECK(end.ready());
  CHECK(end.us_since(start) > 10);
  CHECK(end.us_since(start) < 1e6f);
  const double bytes_per_s = copy_bandwidth(gpu.context);
  CAPTURE(bytes_per_s);
  CHECK(bytes_per_s > 1e10);
  CHECK(bytes_per_s < 1e14);
}

TEST_CASE("the arena hands out aligned pieces until it is full") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  Arena arena(10000);
  const CUdeviceptr first = arena.allocate(1);
  const CUdeviceptr second = arena.allocate(100);
  CHECK(first % 256 == 0);
  CHECK(second == first + 256);
  CHECK(arena.allocate(8, 8) == second + 104);
  CHECK(arena.allocate(16, 1024) % 1024 == 0);
  const std::size_t used = arena.used_bytes();
  CHECK_THROWS_AS(arena.allocate(10000), OutOfMemoryError);
  CHECK_THROWS_AS(arena.allocate(~std::size_t{0}), OutOfMemoryError);
  CHECK(arena.used_bytes() == used);
  arena.reset();
  CHECK(arena.allocate(10000) == first);
  CHECK_THROWS_AS(arena.allocate(1, 1), OutOfMemoryError);
}

TEST_CASE("the device writes to page-locked memory") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  const int n = 300;
  const std::vector<float> a = random_values(n, 9);
  const Buffer device_a = upload(a, gpu.stream);
  const PinnedBuffer pinned(n * sizeof(float));
  std::memset(pinned.as<void>(), 0xff, pinned.size_bytes());
  launch(gpu.stream, gpu.add, gpu.plan_for(n),
         AddArgs{device_a.address(), device_a.address(), pinned.device_address(), n});
  gpu.stream.synchronize();
  for (std::size_t i = 0; i < a.size(); ++i) REQUIRE(pinned.as<float>()[i] == 2 * a[i]);
}

TEST_CASE("running out of memory and bad launches leave the context working") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  CHECK_THROWS_AS(Buffer{std::size_t{1} << 42}, OutOfMemoryError);
  gpu.check_alive();
  LaunchPlan plan;
  plan.block[0] = 2048;
  CHECK_THROWS_AS(launch(gpu.stream, gpu.add, plan, AddArgs{}), CudaError);
  gpu.check_alive();
  CHECK(gpu.context.free_bytes() > 0);
}

TEST_CASE("an image that does not fit is refused") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  Fixture gpu;
  CHECK_THROWS_WITH_AS(gpu.module.function("absent"), doctest::Contains("'absent'"), CudaError);
  CHECK_THROWS_AS(Module(std::span<const char>{}), CudaError);
  const std::string text = "not a cubin at all";
  CHECK_THROWS_AS(Module{text}, CudaError);
  const Arch other = parse_arch(gpu.arch().major == 8 ? "sm_90a" : "sm_80");
  CHECK_THROWS_AS(Module{compile(kSource, "add", other).cubin}, CudaError);
  gpu.check_alive();
}

TEST_CASE("cuBLASLt agrees with the naive product") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  CublasLt lt;
  CHECK(lt.version().find('.') != std::string::npos);
  struct Size {
    int n, k;
  };
  for (const DType input : {DType::bf16, DType::f16})
    for (const DType output : {input, DType::f32})
      for (const int m : {1, 3, 17, 128})
        for (const Size size : {Size{8, 8}, Size{136, 200}, Size{264, 1032}}) {
          const MatmulShape shape{m, size.n, size.k, input, output};
          CAPTURE(name(input));
          CAPTURE(name(output));
          CAPTURE(m);
          CAPTURE(size.n);
          CAPTURE(size.k);
          const auto rows = static_cast<std::size_t>(m), n = static_cast<std::size_t>(size.n),
                     k = static_cast<std::size_t>(size.k);
          const std::vector<float> x = rounded(random_values(rows * k, 10), input);
          const std::vector<float> w = rounded(random_values(n * k, 11), input);
          std::vector<float> expected(rows * n);
          for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t column = 0; column < n; ++column) {
              double sum = 0;
              for (std::size_t i = 0; i < k; ++i)
                sum += static_cast<double>(x[row * k + i]) * w[column * k + i];
              expected[row * n + column] = static_cast<float>(sum);
            }
          const Buffer device_x = upload(encode(x, input), gpu.stream);
          const Buffer device_w = upload(encode(w, input), gpu.stream);
          const int num_algorithms = lt.num_algorithms(shape, 3);
          CHECK(num_algorithms >= 1);
          CHECK(num_algorithms <= 3);
          for (int rank = 0; rank < num_algorithms; ++rank) {
            CAPTURE(rank);
            const Buffer workspace(lt.workspace_bytes(shape, rank));
            const GuardedBuffer y(bytes_for(output, rows * n), gpu.stream);
            lt.matmul(gpu.stream, shape, rank, device_x.address(), device_w.address(), y.address(),
                      workspace.address());
            // The dtype's half step, and fp32 rounding that grows with the terms of the sum.
            const double rel = output == DType::f32    ? 0x1p-22
                               : output == DType::bf16 ? 0x1p-8
                                                       : 0x1p-10;
            const double abs = 0x1p-20 * static_cast<double>(k);
            QUERN_CHECK_CLOSE(decode(y.download<std::byte>(gpu.stream), output), expected, abs,
                              rel);
            CHECK(y.intact(gpu.stream));
          }
        }
}

TEST_CASE("cuBLASLt is captured, and says what it cannot do") {
  QUERN_SKIP_IF(!gpu_available(), driver_problem());
  const GpuFixture gpu;
  CublasLt lt;
  const MatmulShape shape{5, 64, 128, DType::bf16, DType::bf16};
  const std::vector<float> ones(128 * 64, 1.0f);
  const Buffer operand = upload(encode(ones, DType::bf16), gpu.stream);
  const GuardedBuffer y(5 * 64 * 2, gpu.stream);
  const Buffer workspace(lt.workspace_bytes(shape, 0));
  const Graph graph = Graph::capture(gpu.stream, [&] {
    lt.matmul(gpu.stream, shape, 0, operand.address(), operand.address(), y.address(),
              workspace.address());
  });
  CHECK(graph.num_nodes() >= 1);
  const GraphExec exec(graph);
  exec.launch(gpu.stream);
  CHECK(decode(y.download<std::byte>(gpu.stream), DType::bf16) ==
        std::vector<float>(5 * 64, 128.0f));
  CHECK_THROWS_AS(lt.workspace_bytes(shape, 999), InputError);
  CHECK_THROWS_AS(lt.num_algorithms({0, 64, 64, DType::bf16, DType::bf16}), InputError);
  CHECK_THROWS_AS(lt.num_algorithms({1, 64, 64, DType::i8, DType::bf16}), InputError);
  CHECK_THROWS_AS(lt.num_algorithms({1, 64, 64, DType::e4m3, DType::bf16}), InputError);
  CHECK_THROWS_AS(lt.num_algorithms({1, 64, 64, DType::bf16, DType::bf16, true}), InputError);
}
