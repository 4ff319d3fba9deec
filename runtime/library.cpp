#include "runtime/library.h"

#include <dlfcn.h>

#include <filesystem>

#ifndef QUERN_CUDA_LIBRARY_DIR
#define QUERN_CUDA_LIBRARY_DIR ""
#endif

namespace quern {

Library::Library(const std::vector<std::string>& names, const std::vector<std::string>& dirs) {
  const auto try_folder = [&](const std::string& dir) {
    if (dir.empty()) return;
    for (const std::string& name : names)
      if (!handle_) handle_ = dlopen((dir + "/" + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  };
  for (const std::string& dir : dirs) try_folder(dir);
  for (const std::string& name : names)
    if (!handle_) handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  for (const char* dir : {QUERN_CUDA_LIBRARY_DIR, "/usr/local/cuda/lib64", "/usr/local/cuda/lib"})
    try_folder(dir);
}

std::string Library::folder_of(void* function) {
  Dl_info info{};
  if (dladdr(function, &info) == 0 || !info.dli_fname) return {};
  return std::filesystem::path(info.dli_fname).parent_path().string();
}

void* Library::symbol(const char* name) const { return handle_ ? dlsym(handle_, name) : nullptr; }

}  // namespace quern
