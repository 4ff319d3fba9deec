#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>

#include "compiler/dsl_cuda_body.h"
#include "compiler/dsl_cuda_header.h"
#include "compiler/dsl_schedule.h"

namespace quern::dsl {
namespace {

/// The kernel around the work: which thread is where, the loops along a row, the passes.
class KernelWriter {
 public:
  KernelWriter(const Tree& tree, const Binding& binding, const Schedule& schedule,
               const std::string& entry)
      : tree_(tree),
        binding_(binding),
        schedule_(schedule),
        entry_(entry),
        shape_(cuda_shape(tree, binding, schedule)),
        passes_(plan_passes(tree, reuse_of(schedule.keep))),
        indices_(tree, binding, names_),
        reductions_(tree, helpers_, row_sharers(), segment_sharers()),
        body_(tree, binding, text_, names_, helpers_, indices_, &reductions_) {
    body_.set_vector(schedule.vector);
  }

  std::string write() {
    text_.open(fmt::format(
        "extern \"C\" __global__ void __launch_bounds__({}{}) {}(\n"
        "    const __grid_constant__ Args args)",
        schedule_.threads,
        schedule_.blocks_per_sm > 0 ? fmt::format(", {}", schedule_.blocks_per_sm) : std::string(),
        entry_));
    top_ = text_.mark();
    if (shape_.shares_rows)
      rows();
    else
      elements();
    declare_num_rows();
    indices_.declare_extents(text_, top_);
    text_.close();
    const std::string functions = reductions_.functions();  // asks for helpers of its own
    const std::string args = args_struct(tree_, binding_, "Args", {}, helpers_);
    return fmt::format("// {}.\n\n", title(tree_, binding_)) + helpers_.write() + functions + args +
           text_.str();
  }

 private:
  using Work = CudaBody::Work;
  using Folds = std::vector<CudaBody::Fold>;

  static std::size_t at(int number) { return static_cast<std::size_t>(number); }
  const Node& node(int number) const { return tree_.nodes[at(number)]; }
  AxisSet outer() const { return tree_.walked & ~tree_.segment; }
  bool keeps() const { return schedule_.keep != Keep::none; }
  bool in_turn() const { return shape_.takes_segments_in_turn; }
  bool flat_segments() const { return shape_.lanes_per_segment > 0; }
  bool is_column() const { return tree_.is_column(); }
  bool in_turns() const { return schedule_.turns > 1; }
  bool in_registers() const {
    return schedule_.keep == Keep::registers || schedule_.keep == Keep::packed;
  }
  int rows_per_block() const { return schedule_.threads / schedule_.threads_per_row; }
  /// Neighbours that one step along a row takes.
  int step() const { return is_column() ? 1 : body_.vector(); }
  /// Lanes that take a segment together.
  int lanes_in_turn() const { return is_column() ? 1 : std::min(32, schedule_.threads_per_row); }

  Sharers row_sharers() const {
    Sharers out;
    if (!shape_.shares_rows) return out;
    out.lanes = schedule_.threads_per_row;
    out.threads = schedule_.threads;
    out.cluster = schedule_.cluster;
    out.apart = tree_.is_column();
    out.in_turns = schedule_.turns > 1;
    return out;
  }
  Sharers segment_sharers() const {
    Sharers out;
    out.threads = schedule_.threads;
    out.lanes = flat_segments() ? shape_.lanes_per_segment : in_turn() ? lanes_in_turn() : 1;
    return out;
  }

  // Rows.

  std::string num_rows() const {
    const int axes = __builtin_popcount(tree_.leading());
    return axes > 1 ? "num_rows" : indices_.extent(tree_.leading()).text;
  }
  void declare_num_rows() {
    if (mentions(text_.since(top_), "num_rows"))
      text_.insert(top_, fmt::format("const long long num_rows = {};",
                                     indices_.extent(tree_.leading()).text));
  }

  void wait_for_predecessor() {
    if (!schedule_.pdl) return;
    // A successor waits for the whole grid in any case, so it may be made ready early.
    text_.at_margin("#if __CUDA_ARCH__ >= 900");
    text_.line("asm volatile(\"griddepcontrol.launch_dependents;\");");
    text_.line("asm volatile(\"griddepcontrol.wait;\" ::: \"memory\");");
    text_.at_margin("#endif");
  }

  std::string lane() const { return shape_.lanes == 1 ? "0" : "lane"; }
  /// "lane * 8"
  std::string first_col() const {
    return lane() == "0" || step() == 1 ? lane() : fmt::format("lane * {}", step());
  }

  void find_row() {
    const int per_row = schedule_.threads_per_row, rows = rows_per_block();
    std::string row = fmt::format("blockIdx.x * {}ll + threadIdx.x / {}", rows, per_row);
    std::string lane = fmt::format("threadIdx.x % {}", per_row);
    if (is_column()) {
      const std::string vector =
          schedule_.vector > 1 ? fmt::format(" * {}", schedule_.vector) : std::string();
      row = fmt::format("{}blockIdx.x * {}ll + threadIdx.x{}{}{}", vector.empty() ? "" : "(", rows,
                        per_row > 1 ? fmt::format(" % {}", rows) : std::string(),
                        vector.empty() ? "" : ")", vector);
      lane = fmt::format("threadIdx.x / {}", rows);
    } else if (schedule_.cluster > 1) {
      row = fmt::format("blockIdx.x / {}", schedule_.cluster);
      lane =
          fmt::format("blockIdx.x % {} * {} + threadIdx.x", schedule_.cluster, schedule_.threads);
    } else if (per_row == schedule_.threads) {
      row = "blockIdx.x";
      lane = "threadIdx.x";
    } else if (per_row == 1) {
      row = fmt::format("blockIdx.x * {}ll + threadIdx.x", rows);
    }
    const std::string name = is_column() ? "item" : in_turns() ? "first_row" : "row";
    text_.line("const long long {} = {};", name, row);
    if (shape_.lanes > 1) text_.line("const int lane = {};", lane);
    if (schedule_.pdl) prefetch_parameters();
    wait_for_predecessor();
    if (!in_turns()) text_.line("if ({} >= {}) return;", name, num_rows());
  }

  /// Operands that all rows share are most often weights, which no predecessor writes. Fetching
  /// them into L2 before waiting is harmless if one does. One block does it for all.
  void prefetch_parameters() {
    if (is_column()) return;
    std::vector<std::string> lines;
    for (std::size_t i = 0; i < tree_.operands.size(); ++i) {
      const auto& layout = tree_.layouts[i];
      const bool whole = tree_.axes_of(static_cast<int>(i)) == tree_.walked &&
                         static_cast<int>(layout.size()) == __builtin_popcount(tree_.walked);
      const DType dtype = resolve(tree_, tree_.operand_types[i], binding_);
      if (!whole || dtype == DType::i4) continue;
      lines.push_back(
          fmt::format("prefetch(args.{}, {} * {});", member_name(tree_.operands[i].name),
                      indices_.extent(tree_.walked).at_least(Code::product), bytes_for(dtype, 1)));
    }
    if (lines.empty()) return;
    helpers_.need("prefetch");
    text_.open("if (blockIdx.x == 0 && threadIdx.x == 0)");
    for (const std::string& line : lines) text_.put(line);
    text_.close();
  }

  /// The variables that tell where a thread is.
  void name_positions() {
    if (is_column() && shape_.shares_rows) {
      indices_.add(tree_.leading(), "item");
      if (in_turn()) {
        indices_.add(outer(), "segment");
        indices_.add(tree_.segment, "at");
      } else {
        indices_.add(tree_.walked, "step");
      }
      return;
    }
    indices_.add(tree_.leading(), "row");
    if (in_turn()) {
      indices_.add(outer(), "segment");
      indices_.add(tree_.segment, "at");
      return;
    }
    indices_.add(tree_.walked, "col");
    if (!shape_.shares_rows && tree_.leading() != 0) indices_.add(tree_.iterated(), "element");
    if (flat_segments()) {
      indices_.add(outer(), "segment", "col");
      indices_.add(tree_.segment, "at", "col");
    }
  }

  void rows() {
    name_positions();
    find_row();
    if (in_registers()) keep_in_registers();
    if (in_turns()) {
      load_ahead();
      text_.open(
          fmt::format("for (long long row = first_row; row < {}; row += rows_apart)", num_rows()));
    }
    const std::size_t start = text_.mark();
    one_row();
    indices_.declare(text_, start, is_column() ? "item" : "row");
    if (in_turns()) {
      const bool counts = mentions(text_.since(start), "turn");
      if (counts) text_.line("turn ^= 1;");
      text_.close();
      if (counts) text_.insert(loop_, "int turn = 0;  // or 1");
    }
    // Shared memory comes first.
    std::vector<std::string> shared = reductions_.shared_memory();
    if (shape_.smem_bytes > 0)
      shared.insert(shared.begin(), "extern __shared__ __align__(16) unsigned char staged[];");
    for (auto line = shared.rbegin(); line != shared.rend(); ++line) text_.insert(top_, *line);
    if (schedule_.cluster > 1) helpers_.need("cluster");
  }

  void one_row() {
    if (schedule_.cluster > 1) text_.line("cluster_arrive();  // before anything is sent");
    if (in_registers()) body_.declare_kept(loaded_ahead(), /*all_but=*/true);
    if (schedule_.keep == Keep::shared) keep_in_shared_memory();
    bool waits = schedule_.cluster > 1;
    for (std::size_t p = 0; p < passes_.passes.size(); ++p) {
      const Pass& pass = passes_.passes[p];
      body_.emit({pass.row_nodes, {}, {}});
      if (p == 0) stage_row();
      const std::vector<int> row_reductions = reductions_of(pass, Level::row);
      const Folds folds = body_.declare_partials(row_reductions);
      const bool last = p + 1 == passes_.passes.size();
      if (last)
        for (const int n : values_of_any_segment()) carried_[n] = body_.declare_carried(n);
      pass_along_row(pass, last, p == 0, folds);
      if (p == 0 && !pipelined_.empty())
        text_.line("if (row + rows_apart < {}) load_row(row + rows_apart);", num_rows());
      if (waits && !folds.empty()) {
        text_.line("cluster_wait();");
        waits = false;
      }
      for (const CudaBody::Fold& fold : folds) body_.finish(fold, true);
    }
    if (waits) text_.line("cluster_wait();");
    for (const auto& [n, name] : carried_) body_.take_carried(n, name);
    store_row_values();
  }

  // Rows in turn.

  /// Vectors that all rows share stay in registers for all of them; those of a row that its first
  /// walk uses up are fetched while the row before is being worked on.
  void load_ahead() {
    text_.line("const long long rows_apart = gridDim.x{};",
               rows_per_block() > 1 ? fmt::format(" * {}ll", rows_per_block()) : std::string());
    body_.declare_kept(loaded_ahead(), /*all_but=*/false);
    if (!shared_by_rows_.empty())
      along_chunks([&] { body_.emit({to_vector(shared_by_rows_), {}, {}}); });
    if (!pipelined_.empty()) {
      text_.open("const auto load_row = [&](const long long row)");
      const std::size_t mark = text_.mark();
      along_chunks([&] { body_.emit({to_vector(pipelined_), {}, {}}); });
      indices_.declare(text_, mark, "row");
      text_.close("};");
      text_.line("if (first_row < {}) load_row(first_row);", num_rows());
    }
    body_.set_ready(loaded_ahead());
    loop_ = text_.mark();
  }

  static std::vector<int> to_vector(const std::set<int>& nodes) {
    return {nodes.begin(), nodes.end()};
  }
  std::set<int> loaded_ahead() const {
    std::set<int> out = shared_by_rows_;
    out.insert(pipelined_.begin(), pipelined_.end());
    return out;
  }

  void find_loads_ahead(const std::set<int>& kept) {
    for (const int n : passes_.passes.front().walks.front().element_nodes) {
      const Node& load = node(n);
      if (load.op != Op::load || !body_.is_vector_load(n) || load.gathered != 0) continue;
      const bool is_input = tree_.operands[at(load.index)].role == OperandInfo::Role::in;
      const bool is_kept = std::any_of(kept.begin(), kept.end(), [&](int other) {
        return node(other).op == Op::load && same_vector(tree_, node(other), load);
      });
      if ((load.axes & tree_.leading()) == 0 && is_input)
        shared_by_rows_.insert(n);
      else if (!is_kept)
        pipelined_.insert(n);
    }
  }

  void store_row_values() {
    const auto stores = stores_at(Level::row);
    if (stores.empty()) return;
    if (overwrites(stores))
      if (const std::string barrier = reductions_.row_barrier(); !barrier.empty())
        text_.put(barrier);
    if (shape_.lanes > 1) text_.open("if (lane == 0)");
    body_.emit({{}, {}, stores});
    if (shape_.lanes > 1) text_.close();
  }

  std::vector<const Store*> stores_at(Level level) const {
    std::vector<const Store*> out;
    for (const Store& store : tree_.stores)
      if (tree_.store_level(store) == level) out.push_back(&store);
    return out;
  }
  /// Whether other threads may still read what these stores overwrite.
  bool overwrites(const std::vector<const Store*>& stores) const {
    return std::any_of(stores.begin(), stores.end(), [&](const Store* store) {
      return tree_.operands[at(store->operand)].role == OperandInfo::Role::inout;
    });
  }
  std::vector<int> reductions_of(const Walk& walk, Level level) const {
    std::vector<int> out;
    for (const int n : walk.reductions)
      if (tree_.level(n) == level) out.push_back(n);
    return out;
  }
  std::vector<int> reductions_of(const Pass& pass, Level level) const {
    std::vector<int> out;
    for (const Walk& walk : pass.walks)
      for (const int n : reductions_of(walk, level)) out.push_back(n);
    return out;
  }

  /// What is stored once per row and computed in every segment: the same in each of them.
  std::set<int> values_of_any_segment() const {
    std::set<int> out;
    for (const Store* store : stores_at(Level::row))
      if (tree_.level(store->value) == Level::segment) out.insert(store->value);
    return out;
  }

  // What is kept.

  void keep_in_registers() {
    CudaBody::Kept kept;
    kept.chunks = shape_.chunks;
    kept.threads = schedule_.threads;
    kept.nodes.insert(passes_.kept.begin(), passes_.kept.end());
    for (const int n : segment_values_of_later_passes()) kept.nodes.insert(n);
    if (in_turns()) {
      find_loads_ahead(kept.nodes);
      kept.nodes.merge(loaded_ahead());
    }
    body_.set_kept(std::move(kept));
  }

  void keep_in_shared_memory() {
    CudaBody::Kept kept;
    kept.chunks = shape_.chunks;
    kept.threads = schedule_.threads;
    std::int64_t offset = 0;
    for (const int n : staged_loads(tree_, passes_, binding_)) {
      const DType dtype = resolve(tree_, node(n).type, binding_);
      const std::string type = dtype == DType::i4 ? "unsigned char" : type_name(dtype);
      helpers_.need_type(dtype);
      std::string name = names_.take("staged_" + node(n).name);
      text_.line("{0}* const {1} = reinterpret_cast<{0}*>(staged{2});", type, name,
                 offset > 0 ? fmt::format(" + {}", offset) : std::string());
      offset += staged_bytes(tree_, binding_, schedule_, shape_.chunks, n);
      kept.staged[first_of_vector(n)] = name;
    }
    body_.set_kept(std::move(kept));
  }

  int first_of_vector(int number) const {
    for (int n = 0; n < number; ++n)
      if (node(n).op == Op::load &&
          access_of(tree_, node(n), binding_).kind == Access::Kind::vector &&
          same_vector(tree_, node(n), node(number)))
        return n;
    return number;
  }

  /// Segments' values that one pass computes and another one needs.
  std::set<int> segment_values_of_later_passes() const {
    std::map<int, std::size_t> computed;
    std::set<int> out;
    for (std::size_t p = 0; p < passes_.passes.size(); ++p) {
      const Pass& pass = passes_.passes[p];
      const auto use = [&](int n) {
        const auto found = computed.find(n);
        if (found != computed.end() && found->second != p) out.insert(n);
      };
      const auto use_args = [&](int n) {
        for (const int arg : node(n).args)
          if (arg >= 0) use(arg);
      };
      for (const Walk& walk : pass.walks) {
        for (const int n : walk.segment_nodes) computed.emplace(n, p);
        for (const int n : reductions_of(walk, Level::segment)) computed.emplace(n, p);
        for (const auto* nodes : {&walk.segment_nodes, &walk.element_nodes, &walk.reductions})
          for (const int n : *nodes) use_args(n);
      }
      if (p + 1 == passes_.passes.size())
        for (const Store& store : tree_.stores) use(store.value);
    }
    return out;
  }

  /// All vectors of the row are on their way before the first one is waited for.
  void stage_row() {
    if (schedule_.keep != Keep::shared) return;
    along_chunks([&] { body_.stage(); });
    text_.line("asm volatile(\"cp.async.wait_all;\" ::: \"memory\");");
  }

  // Loops along a row.

  void along_chunks(const std::function<void()>& work) {
    const int chunks = shape_.chunks;
    const std::int64_t length = bound_extent(tree_, binding_, tree_.walked);
    const bool partial = std::int64_t{chunks} * step() * shape_.lanes != length;
    body_.set_chunk(chunks > 1 ? "chunk" : "0");
    if (chunks > 1) {
      if (in_registers()) text_.at_margin("#pragma unroll");
      text_.open(fmt::format("for (int chunk = 0; chunk < {}; ++chunk)", chunks));
    } else {
      text_.open();
    }
    const std::size_t mark = text_.mark();
    if (partial) text_.open(fmt::format("if (col < {})", indices_.extent(tree_.walked).text));
    const std::size_t inside = text_.mark();
    work();
    indices_.declare(text_, inside, "col");
    if (partial) text_.close();
    if (mentions(text_.since(mark), "col")) {
      const std::string chunk =
          shape_.lanes == 1 ? "chunk" : fmt::format("(chunk * {} + lane)", shape_.lanes);
      text_.insert(mark, fmt::format("const {} col = {}{};", indices_.type(tree_.walked),
                                     chunks > 1 ? chunk : lane(),
                                     step() > 1 ? fmt::format(" * {}", step()) : std::string()));
    }
    text_.close();
  }

  /// A loop of `lanes` threads over positions along some axes.
  void along(AxisSet axes, const std::string& name, const std::string& first, int step,
             const std::function<void()>& work) {
    text_.open(fmt::format("for ({0} {1} = {2}; {1} < {3}; {4})", indices_.type(axes), name, first,
                           indices_.extent(axes).text,
                           step == 1 ? "++" + name : fmt::format("{} += {}", name, step)));
    const std::size_t mark = text_.mark();
    work();
    indices_.declare(text_, mark, name);
    text_.close();
  }

  void pass_along_row(const Pass& pass, bool last, bool first, const Folds& row_folds) {
    const auto walks = [&] {
      for (std::size_t w = 0; w < pass.walks.size(); ++w)
        walk(pass.walks[w], last && w + 1 == pass.walks.size(), first && w == 0, row_folds);
    };
    if (!has_work(pass, last)) return;
    if (in_turn()) {
      const int lanes = lanes_in_turn(), groups = shape_.lanes / lanes;
      along(outer(), "segment",
            groups == 1  ? "0"
            : lanes == 1 ? lane()
                         : fmt::format("lane / {}", lanes),
            groups, walks);
      return;
    }
    if (keeps()) return along_chunks(walks);
    const auto loop = [&] {
      along(tree_.walked, is_column() ? "step" : "col", first_col(), step() * shape_.lanes, walks);
    };
    either_width(loop);
  }

  /// Twice if the innermost extent is known at run time alone: for multiples of the schedule's
  /// vector, and for the others.
  void either_width(const std::function<void()>& loop) {
    if (shape_.narrow == 0) return loop();
    text_.open(
        fmt::format("if ({} % {} == 0)", indices_.extent(tree_.last_axis()), schedule_.vector));
    loop();
    text_.otherwise();
    body_.set_vector(shape_.narrow);
    loop();
    body_.set_vector(schedule_.vector);
    text_.close();
  }

  bool has_work(const Pass& pass, bool last) const {
    return std::any_of(pass.walks.begin(), pass.walks.end(),
                       [&](const Walk& walk) {
                         return !walk.element_nodes.empty() || !walk.reductions.empty() ||
                                !walk.segment_nodes.empty();
                       }) ||
           (last && (!stores_at(Level::element).empty() || !stores_at(Level::segment).empty() ||
                     !carried_.empty()));
  }

  /// Of the values of a segment, or of the whole row.
  Folds split(const Folds& folds, Level level) const {
    Folds out;
    for (const CudaBody::Fold& fold : folds)
      if (tree_.level(node(fold.node).args[0]) == level) out.push_back(fold);
    return out;
  }

  void walk(const Walk& walk, bool last, bool first, const Folds& row_folds) {
    const bool folds_row = !reductions_of(walk, Level::row).empty();
    const std::vector<int> segment_reductions = reductions_of(walk, Level::segment);
    if (!walk.segment_nodes.empty()) body_.emit({walk.segment_nodes, {}, {}});
    const Folds segment_folds = body_.declare_partials(segment_reductions);

    Work work{walk.element_nodes, segment_folds, {}};
    if (schedule_.keep == Keep::shared && !first) {
      // From shared memory; what does not wait there is read again.
      work.nodes.insert(work.nodes.end(), walk.kept_before.begin(), walk.kept_before.end());
      std::sort(work.nodes.begin(), work.nodes.end());
    }
    if (folds_row)
      for (const CudaBody::Fold& fold : split(row_folds, Level::element))
        work.folds.push_back(fold);
    if (last) work.stores = stores_at(Level::element);
    if (!work.folds.empty() || !work.stores.empty() || (!work.nodes.empty() && in_registers())) {
      if (in_turn())
        along_segment([&] { body_.emit(work); });
      else
        body_.emit(work);
    }
    for (const CudaBody::Fold& fold : segment_folds) body_.finish(fold, false);

    // The lane that stores the row's values has the first segment.
    if (last)
      for (const auto& [n, name] : carried_)
        text_.line("if ({} == 0) {} = {};", in_turn() ? "segment" : "col", name,
                   body_.value_of(n).text);
    if (const Folds folds = split(row_folds, Level::segment); folds_row && !folds.empty())
      once_per_segment([&] { body_.emit({{}, folds, {}}); });
    if (const auto stores = stores_at(Level::segment); last && !stores.empty()) {
      if (overwrites(stores))
        if (const std::string barrier = reductions_.segment_barrier(); !barrier.empty())
          text_.put(barrier);
      once_per_segment([&] { body_.emit({{}, {}, stores}); });
    }
  }

  /// The elements of a segment that groups of lanes take in turn.
  void along_segment(const std::function<void()>& work) {
    const int lanes = lanes_in_turn();
    std::string first = lanes == 1              ? "0"
                        : lanes == shape_.lanes ? "lane"
                                                : fmt::format("lane % {}", lanes);
    if (step() > 1 && lanes > 1) first += fmt::format(" * {}", step());
    along(tree_.segment, "at", first, lanes * step(), work);
  }

  /// Work of one of the lanes that hold a segment.
  void once_per_segment(const std::function<void()>& work) {
    std::string condition;
    if (flat_segments() && shape_.lanes_per_segment > 1) condition = "at == 0";
    if (in_turn() && lanes_in_turn() > 1)
      condition = lanes_in_turn() == shape_.lanes ? "lane == 0"
                                                  : fmt::format("lane % {} == 0", lanes_in_turn());
    if (!condition.empty()) text_.open(fmt::format("if ({})", condition));
    work();
    if (!condition.empty()) text_.close();
  }

  // Elements that stand by themselves.

  void elements() {
    name_positions();
    const std::string item = fmt::format("blockIdx.x * {}ll + threadIdx.x", schedule_.threads);
    if (shape_.narrow > 0) {
      wait_for_predecessor();
      return either_width([&] {
        const std::string items = num_items();
        text_.open(
            fmt::format("for (long long item = {}; item < {};\n"
                        "       item += gridDim.x * {}ll)",
                        item, items, schedule_.threads));
        one_item(text_.mark());
        text_.close();
      });
    }
    const std::string items = num_items();
    text_.line("const long long item = {};", item);
    text_.line("if (item >= {}) return;", items);
    const std::size_t start = text_.mark();  // where this is, is found out before waiting
    wait_for_predecessor();
    one_item(start);
  }

  std::string vectors_of_row() const {
    return body_.vector() > 1 ? "vectors" : indices_.extent(tree_.last_axis());
  }

  /// Vectors of all rows; declares how many a row has.
  std::string num_items() {
    const int v = body_.vector();
    const std::int64_t bound = bound_extent(tree_, binding_, tree_.walked);
    if (v > 1)
      text_.line("{} {} vectors = {};  // in a row", bound > 0 ? "constexpr" : "const",
                 indices_.type(tree_.walked),
                 bound > 0 ? std::to_string(bound / v)
                           : fmt::format("{} / {}", indices_.extent(tree_.last_axis()), v));
    return (tree_.leading() == 0 ? "" : num_rows() + " * ") + vectors_of_row();
  }

  /// `start`: where positions are declared.
  void one_item(std::size_t start) {
    const int v = body_.vector();
    const std::string type = indices_.type(tree_.walked), in_row = vectors_of_row();
    const Pass& pass = passes_.passes.front();
    const Walk& walk = pass.walks.front();
    body_.emit({pass.row_nodes, {}, {}});
    body_.emit({walk.element_nodes, {}, stores_at(Level::element)});
    if (const auto stores = stores_at(Level::row); !stores.empty()) {
      text_.open("if (col == 0)");
      body_.emit({{}, {}, stores});
      text_.close();
    }
    indices_.declare(text_, start, "row");
    indices_.declare(text_, start, "col");
    const auto declare = [&](const char* name, const std::string& line) {
      if (mentions(text_.since(start), name)) text_.insert(start, line);
    };
    const std::string times = v > 1 ? fmt::format(" * {}", v) : std::string();
    const std::string index = tree_.leading() == 0 ? "item" : fmt::format("item % {}", in_row);
    declare("col", fmt::format("const {0} col = static_cast<{0}>({1}){2};", type, index, times));
    declare("row", fmt::format("const long long row = item / {};", in_row));
    declare("element", fmt::format("const long long element = item{};", times));
  }

  const Tree& tree_;
  const Binding& binding_;
  const Schedule& schedule_;
  const std::string& entry_;
  CudaShape shape_;
  Passes passes_;
  Names names_;
  Helpers helpers_;
  Text text_;
  CudaIndices indices_;
  CudaReductions reductions_;
  CudaBody body_;
  std::map<int, std::string> carried_;  // variables of values_of_any_segment
  /// With rows in turn: vectors that are loaded before the rows, and before the row that needs
  /// them.
  std::set<int> shared_by_rows_, pipelined_;
  std::size_t top_ = 0, loop_ = 0;  // places in the text: the kernel's first line, the loop of rows
};

}  // namespace

std::string emit_cuda(const Kernel& kernel, const Binding& binding, const Schedule& schedule) {
  check_schedule(kernel, binding, schedule);
  return KernelWriter(kernel.tree(), binding, schedule, entry_name(kernel)).write();
}

}  // namespace quern::dsl
