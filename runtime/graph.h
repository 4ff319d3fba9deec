#pragma once
#include <cstddef>
#include <functional>
#include <vector>

#include "runtime/driver.h"
#include "runtime/handle.h"
#include "runtime/module.h"
#include "runtime/stream.h"

namespace quern {

/// A graph under construction: captured from a stream, or built from explicit kernel nodes.
class Graph {
 public:
  Graph();  // empty, for add_kernel
  /// Records what `body` enqueues on `stream`. If body throws, the capture is ended and discarded
  /// before the exception travels on.
  static Graph capture(const Stream& stream, const std::function<void()>& body);

  /// Appends a kernel node after `dependencies`; `args` is copied. The node starts when they have
  /// finished, plan.pdl or not: programmatic edges come from capture alone.
  CUgraphNode add_kernel(CUfunction function, const LaunchPlan& plan, const void* args,
                         std::size_t args_bytes, const std::vector<CUgraphNode>& dependencies);
  std::size_t num_nodes() const;
  CUgraph get() const { return handle_.get(); }

 private:
  struct Destroy {
    void operator()(CUgraph) const noexcept;
  };
  explicit Graph(CUgraph graph) : handle_(graph) {}
  Unique<CUgraph, Destroy> handle_;
};

/// An instantiated graph, ready to launch.
class GraphExec {
 public:
  GraphExec() = default;
  explicit GraphExec(const Graph& graph);
  void launch(const Stream& stream) const;
  explicit operator bool() const { return static_cast<bool>(handle_); }

 private:
  struct Destroy {
    void operator()(CUgraphExec) const noexcept;
  };
  Unique<CUgraphExec, Destroy> handle_;
};

}  // namespace quern
