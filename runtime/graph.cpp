#include "runtime/graph.h"

#include "runtime/module.h"

namespace quern {
namespace {

CUgraph new_graph() {
  CUgraph graph = nullptr;
  check(driver().GraphCreate(&graph, 0));
  return graph;
}

CUgraphExec instantiate(CUgraph graph) {
  CUgraphExec exec = nullptr;
  check(driver().GraphInstantiateWithFlags(&exec, graph, 0));
  return exec;
}

}  // namespace

Graph::Graph() : handle_(new_graph()) {}
void Graph::Destroy::operator()(CUgraph graph) const noexcept { driver().GraphDestroy(graph); }

Graph Graph::capture(const Stream& stream, const std::function<void()>& body) {
  const Driver& cuda = driver();
  // Relaxed, because the body may load a kernel or let cuBLASLt set itself up on the way: such
  // calls are no part of the graph, and the other modes forbid them.
  check(cuda.StreamBeginCapture(stream.get(), CU_STREAM_CAPTURE_MODE_RELAXED));
  try {
    body();
  } catch (...) {
    CUgraph discarded = nullptr;
    cuda.StreamEndCapture(stream.get(), &discarded);
    if (discarded) cuda.GraphDestroy(discarded);
    throw;
  }
  CUgraph graph = nullptr;
  check(cuda.StreamEndCapture(stream.get(), &graph));
  return Graph(graph);
}

CUgraphNode Graph::add_kernel(CUfunction function, const LaunchPlan& plan, const void* args,
                              std::size_t args_bytes,
                              const std::vector<CUgraphNode>& dependencies) {
  prepare(function, plan);
  void* parameters[] = {const_cast<void*>(args)};  // the driver only reads
  CUDA_KERNEL_NODE_PARAMS node_params{};
  node_params.func = function;
  node_params.gridDimX = plan.grid[0];
  node_params.gridDimY = plan.grid[1];
  node_params.gridDimZ = plan.grid[2];
  node_params.blockDimX = plan.block[0];
  node_params.blockDimY = plan.block[1];
  node_params.blockDimZ = plan.block[2];
  node_params.sharedMemBytes = plan.smem_bytes;
  node_params.kernelParams = args_bytes > 0 ? parameters : nullptr;
  CUgraphNode node = nullptr;
  check(driver().GraphAddKernelNode(&node, get(), dependencies.data(), dependencies.size(),
                                    &node_params));
  if (plan.cluster > 1) {
    CUkernelNodeAttrValue value{};
    value.clusterDim = {plan.cluster, 1, 1};
    check(
        driver().GraphKernelNodeSetAttribute(node, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, &value));
  }
  return node;
}

std::size_t Graph::num_nodes() const {
  std::size_t count = 0;
  check(driver().GraphGetNodes(get(), nullptr, &count));
  return count;
}

GraphExec::GraphExec(const Graph& graph) : handle_(instantiate(graph.get())) {}
void GraphExec::Destroy::operator()(CUgraphExec exec) const noexcept {
  driver().GraphExecDestroy(exec);
}
void GraphExec::launch(const Stream& stream) const {
  check(driver().GraphLaunch(handle_.get(), stream.get()));
}

}  // namespace quern
