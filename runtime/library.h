#pragma once
#include <string>
#include <vector>

namespace quern {

/// A shared library opened with dlopen and never closed (NVIDIA's libraries do not survive it).
class Library {
 public:
  /// Tries `dirs`/`names` in order, then each name by itself, then the CUDA folder found when Quern
  /// was built, then /usr/local/cuda. Not found leaves the object empty.
  Library(const std::vector<std::string>& names, const std::vector<std::string>& dirs);
  explicit operator bool() const { return handle_ != nullptr; }
  /// The folder that a function of the library was loaded from.
  static std::string folder_of(void* function);
  /// nullptr if the library lacks the symbol.
  void* symbol(const char* name) const;
  template <class F>
  bool load(F*& function, const char* name) const {
    function = reinterpret_cast<F*>(symbol(name));
    return function != nullptr;
  }

 private:
  void* handle_ = nullptr;
};

}  // namespace quern
