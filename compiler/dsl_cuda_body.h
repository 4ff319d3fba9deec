#pragma once
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "compiler/dsl_access.h"
#include "compiler/dsl_cuda_index.h"
#include "compiler/dsl_cuda_reduce.h"
#include "compiler/dsl_cuda_values.h"
#include "compiler/dsl_passes.h"

namespace quern::dsl {

/// Computes values, folds them and stores them, for a few neighbours along the last axis at once:
/// what happens inside the loops of a kernel. Which loops those are is not its business.
class CudaBody {
 public:
  /// A reduction and the variable that a thread folds its values into.
  struct Fold {
    int node;
    std::string partial;
  };
  /// What is to be done at one place.
  struct Work {
    std::vector<int> nodes;
    std::vector<Fold> folds;
    std::vector<const Store*> stores;
    bool empty() const { return nodes.empty() && folds.empty() && stores.empty(); }
  };
  /// Where values wait between the walks along a row.
  struct Kept {
    std::set<int> nodes;  // in registers: element values, and values of segments
    int chunks = 0;
    /// Vectors in shared memory: the first load of each and the name of its array.
    std::map<int, std::string> staged;
    int threads = 0;  // of a block
  };
  /// Registers that stand for an operand (fragments): "acc".
  using Registers = std::map<int, std::string>;

  CudaBody(const Tree& tree, const Binding& binding, Text& text, Names& names, Helpers& helpers,
           CudaIndices& indices, CudaReductions* reductions);

  /// Elements that are worked on at once. `text` differs from the number in templates.
  void set_vector(int vector, const std::string& text = {});
  int vector() const { return vector_; }
  void set_chunk(const std::string& chunk) { chunk_ = chunk; }
  void set_kept(Kept kept);
  void set_registers(Registers registers) { registers_ = std::move(registers); }
  /// Operands that values are added to in memory instead of being stored.
  void set_accumulated(std::set<int> operands) { accumulated_ = std::move(operands); }
  /// Positions along the last axis that exist: what lies beyond is neither read nor written.
  void set_count(const std::string& count) { count_ = count; }

  /// Declares the arrays of what is kept in registers: of these nodes, or of all but these.
  void declare_kept(const std::set<int>& nodes, bool all_but);
  /// Vectors that have been loaded by the time of their walk.
  void set_ready(std::set<int> loads) { ready_ = std::move(loads); }
  /// Copies of this chunk's vectors into shared memory.
  void stage();
  void emit(const Work& work);
  /// Declares a reduction's result: `partial` folded with those of the other threads.
  void finish(const Fold& fold, bool over_row);
  /// A segment's value that is the same for all segments, for use after the loops over them:
  /// declares a variable, sets it in one of the segments, takes it for the value from then on.
  std::string declare_carried(int number);
  Code value_of(int number) { return reference(number); }
  void take_carried(int number, const std::string& name);
  /// Declares the variables of a walk's reductions.
  std::vector<Fold> declare_partials(const std::vector<int>& reductions);

  /// True if it differs from one of the neighbours to the next.
  bool is_per_element(int number) const {
    return vector_ > 1 && tree_.varies_along_last(node(number).axes);
  }
  bool is_vector_load(int number) const;
  /// True if this is written where it is used: constants, scalars, positions.
  bool is_immediate(int number) const;

 private:
  static std::size_t at(int number) { return static_cast<std::size_t>(number); }
  const Node& node(int number) const { return tree_.nodes[at(number)]; }
  DType dtype_of(const Type& type) const {
    return type.dtype == DType::boolean ? type.dtype : resolve(tree_, type, binding_);
  }
  DType dtype_of(int number) const { return dtype_of(node(number).type); }
  DType operand_dtype(int operand) const { return dtype_of(tree_.operand_types[at(operand)]); }
  std::string argument(int operand) const;
  std::string type_of(int number);
  bool is_register_operand(int operand) const { return registers_.count(operand) > 0; }
  Access load_access(int number) const;
  bool is_kept(int number) const { return kept_.nodes.count(number) > 0; }
  bool is_in_array(int number) const { return is_kept(number) || per_element_.count(number) > 0; }
  bool must_have_name(int number) const;

  std::string width(int parts) const;
  std::string place(int part, int parts) const;
  std::string array_index(int number) const;
  std::string along_last() const { return inside_elements_ ? "i" : ""; }
  std::string wish(int number) const;
  const std::string& variable(int number);
  const std::string& vector_name(int number);
  int first_of_vector(int number);

  Code reference(int number);
  Code expression(int number);
  Code load(const Node& wanted);
  std::string vector_load(const Node& wanted, const Access& access);
  std::string staged_place(int number, int parts);
  Code offset(const Node& load, bool whole_vector);
  Code offset(const Store& store, bool whole_vector);
  std::string condition(const Node& load);
  std::string address(int operand, const Code& offset) const;
  void emit_vector_load(int number, std::set<int>& loaded);
  void emit_value(int number, bool escapes, int uses, bool is_stored);
  void emit_fold(const Fold& fold);
  void emit_store(const Store& store);
  void emit_vector_store(const Store& store);
  Access store_access(const Store& store) const;
  const std::string& new_value(const Store& store);
  void open_elements();
  void close_elements();

  const Tree& tree_;
  const Binding& binding_;
  Text& text_;
  Names& names_;
  Helpers& helpers_;
  CudaIndices& indices_;
  CudaReductions* reductions_;
  int vector_ = 1;
  std::string vector_text_ = "1", chunk_ = "0", count_;
  Kept kept_;
  Registers registers_;
  std::set<int> accumulated_;
  std::set<int> ready_;
  bool inside_elements_ = false;
  std::vector<int> total_uses_;
  std::set<int> gather_args_;
  std::vector<std::string> variables_;  // of each node, once it has one
  std::map<int, int> first_of_vector_;
  std::map<int, std::string> vector_names_;        // by the first load of each vector
  std::map<std::string, std::string> new_values_;  // vectors to be stored, by the name wished for
  std::set<int> per_element_;    // rows' values that differ among neighbours: arrays
  std::map<int, Code> inlined_;  // written where they are used, at the place at hand
};

}  // namespace quern::dsl
