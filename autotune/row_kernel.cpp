#include "autotune/row_kernel.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "runtime/base/error.h"
#include "templates/embedded.h"

namespace quern {
namespace {

std::string only_kernel(const std::vector<std::string>& names, const std::string& wanted) {
  for (const std::string& name : names)
    if (name == wanted || (wanted.empty() && names.size() == 1)) return name;
  if (!wanted.empty()) throw InputError(fmt::format("the text has no kernel '{}'", wanted));
  throw InputError(
      fmt::format("the text has {} kernels: the options should name one", names.size()));
}

}  // namespace

struct RowKernel::Impl {
  struct Launch {
    Extents extents;
    Scalars scalars;
    BoundKernel bound;
  };

  Impl(const Context& context, std::string_view text, RowKernelOptions given)
      : options(std::move(given)) {
    auto rows = std::make_unique<RowFamily>();
    const dsl::Includes shipped = dsl::includes_from(embedded_templates(), "row");
    const auto names = rows->add(text, "kernel.qk", [&](const std::string& file) {
      auto found = options.includes ? options.includes(file) : std::optional<std::string>();
      return found ? found : shipped(file);
    });
    name = only_kernel(names, options.kernel);
    family = rows.get();
    FamilyRegistry registry(embedded_templates());
    registry.add(std::move(rows));
    library = std::make_unique<KernelLibrary>(
        context, std::move(registry),
        KernelLibraryOptions{options.cache, options.library_dirs, 0, options.worker_command});
  }

  Params problem(const Extents& extents, const Scalars& scalars = {}) const {
    RowValues values{extents, options.dtypes, options.scalars};
    for (const auto& [scalar, value] : scalars) values.scalars[scalar] = value;
    return family->problem(name, values);
  }

  RowKernelOptions options;
  std::string name;
  const RowFamily* family = nullptr;
  std::unique_ptr<KernelLibrary> library;
  std::optional<Launch> last;  // most programs repeat themselves
};

RowKernel::RowKernel(const Context& context, std::string_view text, RowKernelOptions options)
    : impl_(std::make_unique<Impl>(context, text, std::move(options))) {}
RowKernel::~RowKernel() = default;
RowKernel::RowKernel(RowKernel&&) noexcept = default;
RowKernel& RowKernel::operator=(RowKernel&&) noexcept = default;

const dsl::Kernel& RowKernel::kernel() const { return impl_->family->kernel(impl_->name); }
KernelLibrary& RowKernel::library() { return *impl_->library; }

std::vector<OperandSpec> RowKernel::operands(const Extents& extents) const {
  return impl_->family->operands(impl_->problem(extents));
}

ProblemReport RowKernel::tune(const Extents& extents, double budget_seconds, bool force) {
  const std::array<KernelRequest, 1> request{{{"row", impl_->problem(extents)}}};
  TuneOptions options;
  options.budget_seconds = budget_seconds;
  options.force = force;
  impl_->last.reset();
  return std::move(quern::tune(*impl_->library, request, options).problems.front());
}

ReadyKernel RowKernel::ready(const Extents& extents) {
  // Scalars are arguments of the kernel, so that any value finds what was tuned with the trials'.
  return impl_->library->get("row", impl_->problem(extents));
}

void RowKernel::launch(CUstream stream, std::span<const CUdeviceptr> operands,
                       const Extents& extents, const Scalars& scalars) {
  auto& last = impl_->last;
  if (!last || last->extents != extents || last->scalars != scalars)
    last = Impl::Launch{extents, scalars, ready(extents).bind(impl_->problem(extents, scalars))};
  last->bound.enqueue(Stream::borrow(stream), operands, Workspace());
}

}  // namespace quern
