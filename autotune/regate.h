#pragma once
#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "autotune/kernel_library.h"
#include "cache/record_store.h"

namespace quern {

struct RegateReport {
  std::size_t passed = 0;
  std::size_t out_of_date = 0;       // made from other template text, or of no use any more
  std::vector<std::string> dropped;  // one sentence each: they failed and are out of force
  std::vector<std::string> skipped;  // one sentence each: they could not be checked
};

/// Puts every record of `store`, whose GPU must be that of `library`, through the correctness gate
/// again and drops those that fail (RecordStore::drop). What the driver refuses may have taken the
/// context down with it: that record is dropped, and the rest is left to a new process. `progress`
/// is told before each. Throws InputError if the cache cannot be written.
RegateReport regate_records(
    KernelLibrary& library, RecordStore& store,
    const std::function<void(std::size_t done, std::size_t total)>& progress = {});

}  // namespace quern
