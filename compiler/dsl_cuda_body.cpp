#include "compiler/dsl_cuda_body.h"

#include <algorithm>

namespace quern::dsl {
namespace {

std::string zero(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "0.0f";
    case DType::i32:
    case DType::i8:
    case DType::u8:
    case DType::i4:
      return "0";
    default:
      return type_name(dtype) + "()";
  }
}

}  // namespace

CudaBody::CudaBody(const Tree& tree, const Binding& binding, Text& text, Names& names,
                   Helpers& helpers, CudaIndices& indices, CudaReductions* reductions)
    : tree_(tree),
      binding_(binding),
      text_(text),
      names_(names),
      helpers_(helpers),
      indices_(indices),
      reductions_(reductions),
      total_uses_(tree.nodes.size(), 0),
      variables_(tree.nodes.size()) {
  for (const Node& user : tree.nodes)
    for (const int arg : user.args) {
      if (arg < 0) continue;
      ++total_uses_[at(arg)];
      if (user.op == Op::load) gather_args_.insert(arg);
    }
  for (const Store& store : tree.stores) ++total_uses_[at(store.value)];
}

void CudaBody::set_vector(int vector, const std::string& text) {
  vector_ = vector;
  first_of_vector_.clear();
  vector_text_ = text.empty() ? std::to_string(vector) : text;
}

void CudaBody::set_kept(Kept kept) {
  kept_ = std::move(kept);
  for (auto n = kept_.nodes.begin(); n != kept_.nodes.end();)
    n = is_immediate(*n) ? kept_.nodes.erase(n) : std::next(n);
  // The parts of a vector wait together.
  for (std::size_t n = 0; n < tree_.nodes.size(); ++n) {
    const int number = static_cast<int>(n);
    if (!is_vector_load(number)) continue;
    const bool any = std::any_of(kept_.nodes.begin(), kept_.nodes.end(), [&](int other) {
      return is_vector_load(other) && first_of_vector(other) == first_of_vector(number);
    });
    if (any) kept_.nodes.insert(number);
  }
  for (const int n : kept_.nodes)
    if (is_vector_load(n))
      vector_name(n);
    else
      variable(n);
}

// What values are called.

bool CudaBody::is_immediate(int number) const {
  const Op op = node(number).op;
  return op == Op::constant || op == Op::scalar || op == Op::index || op == Op::extent ||
         (op == Op::load && is_register_operand(node(number).index));
}

std::string CudaBody::argument(int operand) const {
  return "args." + member_name(tree_.operands[at(operand)].name);
}

std::string CudaBody::type_of(int number) {
  const DType dtype = dtype_of(number);
  helpers_.need_type(dtype);
  return type_name(dtype);
}

std::string CudaBody::wish(int number) const {
  const Node& wanted = node(number);
  std::string name = wanted.name;
  std::size_t picks = wanted.picked.size();
  if (wanted.op == Op::load && is_vector_load(number)) picks = num_outer_picks(tree_, wanted.index);
  for (std::size_t i = 0; i < picks; ++i) name += fmt::format("_{}", wanted.picked[i]);
  if (!name.empty()) return name;
  switch (wanted.op) {
    case Op::reduce_sum:
      return "sum";
    case Op::reduce_mean:
      return "mean";
    case Op::reduce_max:
      return "largest";
    case Op::reduce_min:
      return "smallest";
    case Op::reduce_argmax:
    case Op::reduce_argmin:
      return "position";
    case Op::reduce_custom:
      return tree_.combines[at(wanted.index)].name;
    case Op::rsqrt:
      return "scale";
    default:
      return "t";
  }
}

const std::string& CudaBody::variable(int number) {
  std::string& name = variables_[at(number)];
  if (name.empty()) name = names_.take(wish(number));
  return name;
}

int CudaBody::first_of_vector(int number) {
  const auto [found, fresh] = first_of_vector_.emplace(number, number);
  for (int n = 0; fresh && n < number && found->second == number; ++n)
    if (node(n).op == Op::load && node(n).index == node(number).index && is_vector_load(n) &&
        same_vector(tree_, node(n), node(number)))
      found->second = n;
  return found->second;
}

const std::string& CudaBody::vector_name(int number) {
  std::string& name = vector_names_[first_of_vector(number)];
  if (name.empty()) name = names_.take(wish(number));
  return name;
}

/// Elements of a vector: "8", "N * 2".
std::string CudaBody::width(int parts) const {
  if (vector_text_ == std::to_string(vector_)) return std::to_string(vector_ * parts);
  return parts == 1 ? vector_text_ : fmt::format("{} * {}", vector_text_, parts);
}

/// Which of them the element at hand is.
std::string CudaBody::place(int part, int parts) const {
  if (vector_ == 1) return std::to_string(part);
  if (parts == 1) return "i";
  return part == 0 ? fmt::format("i * {}", parts) : fmt::format("i * {} + {}", parts, part);
}

/// Where a kept value is in its array.
std::string CudaBody::array_index(int number) const {
  if (!is_kept(number)) return "i";
  if (!is_per_element(number)) return chunk_;
  return kept_.chunks == 1 ? "i" : fmt::format("{} * {} + i", chunk_, vector_);
}

Code CudaBody::reference(int number) {
  const Node& wanted = node(number);
  switch (wanted.op) {
    case Op::constant: {
      const std::string text = wanted.type.dtype == DType::i32
                                   ? literal(static_cast<std::int32_t>(wanted.value))
                                   : literal(static_cast<float>(wanted.value));
      return {text, text[0] == '-' ? Code::unary : Code::primary};
    }
    case Op::scalar:
      return {"args." + member_name(tree_.scalars[at(wanted.index)].name)};
    case Op::index:
      return indices_.position_i32(1u << wanted.index, along_last());
    case Op::extent:
      return {fmt::format("static_cast<int>({})", indices_.extent(wanted.index))};
    default:
      break;
  }
  if (wanted.op == Op::load && is_register_operand(wanted.index)) {
    const Access access = access_of(tree_, wanted, binding_);
    return {fmt::format("{}[{}]", registers_.at(wanted.index), place(access.part, access.parts))};
  }
  if (const auto found = inlined_.find(number); found != inlined_.end()) return found->second;
  if (is_vector_load(number)) {
    const Access access = load_access(number);
    return {fmt::format("{}{}.at[{}]", vector_name(number),
                        is_kept(number) ? fmt::format("[{}]", chunk_) : std::string(),
                        place(access.part, access.parts))};
  }
  if (is_in_array(number)) return {fmt::format("{}[{}]", variable(number), array_index(number))};
  return {variable(number)};
}

Code CudaBody::expression(int number) {
  const Node& wanted = node(number);
  if (wanted.op == Op::load) return load(wanted);
  std::vector<Code> args;
  std::vector<DType> dtypes;
  for (const int arg : wanted.args)
    if (arg >= 0) {
      args.push_back(reference(arg));
      dtypes.push_back(dtype_of(arg));
    }
  const DType dtype = dtype_of(wanted.type);
  helpers_.need_type(dtype);
  return operation(wanted.op, dtype, args, dtypes, helpers_);
}

// Memory.

Access CudaBody::load_access(int number) const {
  const Node& wanted = node(number);
  Access out = access_of(tree_, wanted, binding_);
  // Half a byte cannot be a vector, nor can one that may be cut short.
  if (out.kind == Access::Kind::vector && operand_dtype(wanted.index) == DType::i4 &&
      (vector_ * out.parts % 2 != 0 || !count_.empty()))
    out.kind = Access::Kind::element;
  return out;
}

bool CudaBody::is_vector_load(int number) const {
  return node(number).op == Op::load && !is_register_operand(node(number).index) &&
         load_access(number).kind == Access::Kind::vector;
}

Code CudaBody::offset(const Node& load, bool whole_vector) {
  std::vector<std::int64_t> places = load.picked;
  if (whole_vector)
    std::fill(places.begin() + static_cast<std::ptrdiff_t>(num_outer_picks(tree_, load.index)),
              places.end(), 0);
  std::vector<std::string> gathers;
  for (const int arg : load.args)
    if (arg >= 0) gathers.push_back(reference(arg).at_least(Code::primary));
  return indices_.offset(tree_.layouts[at(load.index)], load.gathered, gathers, places,
                         whole_vector ? "" : along_last());
}

Code CudaBody::offset(const Store& store, bool whole_vector) {
  std::vector<std::int64_t> places = store.picked;
  if (whole_vector)
    std::fill(places.begin() + static_cast<std::ptrdiff_t>(num_outer_picks(tree_, store.operand)),
              places.end(), 0);
  return indices_.offset(tree_.layouts[at(store.operand)], 0, {}, places,
                         whole_vector ? "" : along_last());
}

std::string CudaBody::address(int operand, const Code& offset) const {
  if (operand_dtype(operand) == DType::i4)
    return fmt::format("{} + {} / 2", argument(operand), offset.at_least(Code::product));
  return fmt::format("{} + {}", argument(operand), offset.at_least(Code::sum));
}

/// Whether a gathered element exists; "" if it always does.
std::string CudaBody::condition(const Node& load) {
  std::string out;
  std::size_t gather = 0;
  const auto& layout = tree_.layouts[at(load.index)];
  for (std::size_t d = 0; d < layout.size(); ++d) {
    if (!((load.gathered >> d) & 1u)) continue;
    helpers_.need("within");
    out += fmt::format("{}within({}, {})", out.empty() ? "" : " && ",
                       reference(load.args[gather++]).text, indices_.extent(layout[d].axis));
  }
  return out;
}

/// A single element.
Code CudaBody::load(const Node& wanted) {
  const DType dtype = operand_dtype(wanted.index);
  helpers_.need_type(dtype);
  const Code where = offset(wanted, false);
  std::string text = fmt::format("{}[{}]", argument(wanted.index), where.text);
  if (dtype == DType::i4) {
    helpers_.need("load_i4");
    text = fmt::format("load_i4({}, {})", argument(wanted.index), where.text);
  }
  std::string exists = condition(wanted);
  if (!count_.empty() && tree_.varies_along_last(wanted.axes))
    exists = fmt::format("i < {}{}", count_, exists.empty() ? "" : " && " + exists);
  if (exists.empty()) return {text};
  return {fmt::format("{} ? {} : {}", exists, text, zero(dtype)), Code::ternary};
}

/// All neighbours at once.
std::string CudaBody::vector_load(const Node& wanted, const Access& access) {
  helpers_.need("load");
  const DType dtype = operand_dtype(wanted.index);
  const std::string where = address(wanted.index, offset(wanted, true));
  std::string text;
  if (dtype == DType::i4) {
    helpers_.need("unpack_i4");
    text = fmt::format("unpack_i4(load<{}>({}))", vector_ * access.parts / 2, where);
  } else if (!count_.empty()) {
    helpers_.need("load_up_to");
    text = fmt::format("load_up_to<{}>({}, {}{})", width(access.parts), where, count_,
                       access.parts > 1 ? fmt::format(" * {}", access.parts) : std::string());
  } else {
    text = fmt::format("load<{}>({})", width(access.parts), where);
  }
  const std::string exists = condition(wanted);
  if (exists.empty()) return text;
  return fmt::format("{} ? {} : Vector<{}, {}>()", exists, text, type_name(dtype),
                     width(access.parts));
}

/// This thread's place for a vector in shared memory.
std::string CudaBody::staged_place(int number, int parts) {
  const bool packed = operand_dtype(node(number).index) == DType::i4;
  const std::string thread = kept_.chunks == 1
                                 ? "threadIdx.x"
                                 : fmt::format("({} * {} + threadIdx.x)", chunk_, kept_.threads);
  const int elements = vector_ * parts / (packed ? 2 : 1);
  return fmt::format("{} + {}{}", kept_.staged.at(first_of_vector(number)), thread,
                     elements > 1 ? fmt::format(" * {}", elements) : std::string());
}

void CudaBody::stage() {
  helpers_.need("stage");
  for (const auto& [n, name] : kept_.staged) {
    const Access access = load_access(n);
    const Node& wanted = node(n);
    const bool packed = operand_dtype(wanted.index) == DType::i4;
    const std::string exists = condition(wanted);
    text_.line("{}stage<{}>({}, {});", exists.empty() ? "" : "if (" + exists + ") ",
               vector_ * access.parts / (packed ? 2 : 1), staged_place(n, access.parts),
               address(wanted.index, offset(wanted, true)));
  }
}

void CudaBody::emit_vector_load(int number, std::set<int>& loaded) {
  const int first = first_of_vector(number);
  if (!loaded.insert(first).second) return;
  const Access access = load_access(number);
  helpers_.need_type(operand_dtype(node(number).index));
  std::string text;
  if (kept_.staged.count(first)) {
    const DType dtype = operand_dtype(node(number).index);
    const bool packed = dtype == DType::i4;
    text = fmt::format("load<{}>({})", vector_ * access.parts / (packed ? 2 : 1),
                       staged_place(number, access.parts));
    if (packed) {
      helpers_.need("unpack_i4");
      text = fmt::format("unpack_i4({})", text);
    }
    const std::string exists = condition(node(number));
    if (!exists.empty())
      text = fmt::format("{} ? {} : Vector<{}, {}>()", exists, text, type_name(dtype),
                         width(access.parts));
  } else {
    text = vector_load(node(number), access);
  }
  if (is_kept(number))
    text_.line("{}[{}] = {};", vector_name(number), chunk_, text);
  else
    text_.line("const auto {} = {};", vector_name(number), text);
}

void CudaBody::declare_kept(const std::set<int>& nodes, bool all_but) {
  std::set<int> declared;
  for (const int n : kept_.nodes) {
    if ((nodes.count(n) > 0) == all_but) continue;
    if (is_vector_load(n)) {
      if (declared.insert(first_of_vector(n)).second)
        text_.line("Vector<{}, {}> {}[{}];", type_of(n), width(load_access(n).parts),
                   vector_name(n), kept_.chunks);
    } else {
      text_.line("{} {}[{}];", type_of(n), variable(n),
                 kept_.chunks * (is_per_element(n) ? vector_ : 1));
    }
  }
}

Access CudaBody::store_access(const Store& store) const {
  return access_of(tree_, store, binding_);
}

const std::string& CudaBody::new_value(const Store& store) {
  std::string wished = "new_" + tree_.operands[at(store.operand)].name;
  for (std::size_t i = 0; i < num_outer_picks(tree_, store.operand); ++i)
    wished += fmt::format("_{}", store.picked[i]);
  std::string& name = new_values_[wished];
  if (name.empty()) name = names_.take(wished);
  return name;
}

void CudaBody::emit_vector_store(const Store& store) {
  std::string value = new_value(store);
  if (operand_dtype(store.operand) == DType::i4) {
    helpers_.need("pack_i4");
    value = fmt::format("pack_i4({})", value);
  }
  const std::string to = address(store.operand, offset(store, true));
  if (accumulated_.count(store.operand)) {
    helpers_.need("accumulate");
    return text_.line("accumulate({}, {});", to, value);
  }
  if (count_.empty()) return text_.line("store({}, {});", to, value);
  const int parts = store_access(store).parts;
  helpers_.need("load_up_to");
  text_.line("store_up_to({}, {}, {}{});", to, value, count_,
             parts > 1 ? fmt::format(" * {}", parts) : std::string());
}

// Work.

bool CudaBody::must_have_name(int number) const {
  const Node& wanted = node(number);
  if (gather_args_.count(number)) return true;
  if (wanted.op != Op::load) return false;
  // Before any store, and not once for each of the neighbours.
  return tree_.operands[at(wanted.index)].role != OperandInfo::Role::in ||
         (vector_ > 1 && !is_per_element(number));
}

void CudaBody::open_elements() {
  inside_elements_ = vector_ > 1;
  if (vector_ == 1) return;
  text_.at_margin("#pragma unroll");
  text_.open(fmt::format("for (int i = 0; i < {}; ++i)", vector_text_));
}

void CudaBody::close_elements() {
  if (inside_elements_) text_.close();
  inside_elements_ = false;
}

void CudaBody::emit_value(int number, bool escapes, int uses, bool is_stored) {
  const Code value = expression(number);
  if (is_in_array(number)) {
    text_.line("{}[{}] = {};", variable(number), array_index(number), value.text);
  } else if (!escapes && uses == 1 && !must_have_name(number) &&
             (node(number).name.empty() || is_stored)) {
    inlined_[number] = value;
  } else {
    text_.line("const {} {} = {};", type_of(number), variable(number), value.text);
  }
}

void CudaBody::emit_fold(const Fold& fold) {
  const Node& reduction = node(fold.node);
  const bool each = is_per_element(fold.node);
  text_.put(reductions_->fold(reduction, fold.partial + (each ? "[i]" : ""),
                              reference(reduction.args[0]),
                              reduction.op == Op::reduce_argmin || reduction.op == Op::reduce_argmax
                                  ? indices_.position_i32(reduction.reduced, along_last()).text
                                  : std::string()));
}

void CudaBody::emit_store(const Store& store) {
  const Access access = store_access(store);
  const std::string value = reference(store.value).text;
  if (is_register_operand(store.operand))
    text_.line("{}[{}] = {};", registers_.at(store.operand), place(access.part, access.parts),
               value);
  else if (access.kind == Access::Kind::vector)
    text_.line("{}.at[{}] = {};", new_value(store), place(access.part, access.parts), value);
  else
    text_.line("{}{}[{}] = {};",
               access.kind == Access::Kind::element && !count_.empty()
                   ? fmt::format("if (i < {}) ", count_)
                   : std::string(),
               argument(store.operand), offset(store, false).text, value);
}

void CudaBody::emit(const Work& work) {
  std::vector<int> uses(tree_.nodes.size(), 0);
  std::vector<bool> is_stored(tree_.nodes.size(), false);
  for (const int n : work.nodes)
    for (const int arg : node(n).args)
      if (arg >= 0) ++uses[at(arg)];
  for (const Fold& fold : work.folds) ++uses[at(node(fold.node).args[0])];
  for (const Store* store : work.stores) {
    ++uses[at(store->value)];
    is_stored[at(store->value)] = true;
  }
  const auto escapes = [&](int n) {
    return tree_.level(n) != Level::element && total_uses_[at(n)] > uses[at(n)];
  };
  const auto value = [&](int n) { emit_value(n, escapes(n), uses[at(n)], is_stored[at(n)]); };

  inlined_.clear();
  std::set<int> loaded;
  std::vector<int> each;  // to be computed for every one of the neighbours
  for (const int n : work.nodes) {
    // Loads that only a later walk needs.
    const bool is_idle = uses[at(n)] == 0 && !is_kept(n) && !escapes(n);
    if (is_immediate(n) || is_idle || ready_.count(n)) continue;
    if (is_vector_load(n))
      emit_vector_load(n, loaded);
    else if (is_per_element(n))
      each.push_back(n);
    else
      value(n);
  }
  const auto folds_each = [&](const Fold& fold) { return is_per_element(node(fold.node).args[0]); };
  const auto stores_each = [&](const Store& store) {
    return store_access(store).kind != Access::Kind::uniform;
  };
  for (const int n : each)
    if (escapes(n) && !is_kept(n)) {
      text_.line("{} {}[{}];", type_of(n), variable(n), vector_text_);
      per_element_.insert(n);
    }
  std::vector<const Store*> vectors;  // one of the stores that fill each
  for (const Store* store : work.stores) {
    if (is_register_operand(store->operand) || store_access(*store).kind != Access::Kind::vector ||
        std::any_of(vectors.begin(), vectors.end(),
                    [&](const Store* other) { return new_value(*other) == new_value(*store); }))
      continue;
    vectors.push_back(store);
    helpers_.need("load");
    helpers_.need_type(operand_dtype(store->operand));
    text_.line("Vector<{}, {}> {};", type_name(operand_dtype(store->operand)),
               width(store_access(*store).parts), new_value(*store));
  }
  if (!each.empty() || std::any_of(work.folds.begin(), work.folds.end(), folds_each) ||
      std::any_of(work.stores.begin(), work.stores.end(),
                  [&](const Store* store) { return stores_each(*store); })) {
    open_elements();
    for (const int n : each) value(n);
    for (const Fold& fold : work.folds)
      if (folds_each(fold)) emit_fold(fold);
    for (const Store* store : work.stores)
      if (stores_each(*store)) emit_store(*store);
    close_elements();
  }
  for (const Fold& fold : work.folds)
    if (!folds_each(fold)) emit_fold(fold);
  for (const Store* store : vectors) emit_vector_store(*store);
  for (const Store* store : work.stores)
    if (!stores_each(*store)) emit_store(*store);
  inlined_.clear();
}

std::string CudaBody::declare_carried(int number) {
  std::string name = names_.take("first_" + wish(number));
  text_.line("{} {}{{}};", type_of(number), name);
  return name;
}

void CudaBody::take_carried(int number, const std::string& name) {
  kept_.nodes.erase(number);
  variables_[at(number)] = name;
}

std::vector<CudaBody::Fold> CudaBody::declare_partials(const std::vector<int>& reductions) {
  std::vector<Fold> out;
  for (const int n : reductions) {
    out.push_back({n, names_.take(wish(n) + "_partial")});
    const std::string type = reductions_->type(node(n)), identity = reductions_->identity(node(n));
    if (is_per_element(n)) {
      text_.line("{} {}[{}];", type, out.back().partial, vector_text_);
      text_.line("for (auto& partial : {}) partial = {};", out.back().partial, identity);
    } else {
      text_.line("{} {} = {};", type, out.back().partial, identity);
    }
  }
  return out;
}

void CudaBody::finish(const Fold& fold, bool over_row) {
  const Node& reduction = node(fold.node);
  const bool each = is_per_element(fold.node);
  const std::string partial = fold.partial + (each ? "[i]" : "");
  Code value = over_row ? reductions_->over_row(reduction, partial)
                        : reductions_->over_segment(reduction, partial);
  if (reduction.op == Op::reduce_mean)
    value = {fmt::format("{} / static_cast<float>({})", value.text,
                         indices_.extent(reduction.reduced).text),
             Code::product};
  if (each) {
    text_.line("{} {}[{}];", type_of(fold.node), variable(fold.node), vector_text_);
    per_element_.insert(fold.node);
    open_elements();
  }
  if (is_in_array(fold.node))
    text_.line("{}[{}] = {};", variable(fold.node), array_index(fold.node), value.text);
  else
    text_.line("const {} {} = {};", type_of(fold.node), variable(fold.node), value.text);
  if (each) close_elements();
}

}  // namespace quern::dsl
