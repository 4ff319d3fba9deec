#pragma once
#include <string>
#include <vector>

#include "autotune/registry.h"
#include "cache/exchange.h"

namespace quern {

/// The images that serve these records without a compile, in order of key: of every record's
/// config, and of the default and the reference that it is raced and checked against, as far as
/// `images` has them. `nvrtc_version`: of the NVRTC that built them (Nvrtc::version). Records of
/// unknown families and GPUs have none.
std::vector<NamedImage> images_of(const std::vector<TuningRecord>& records,
                                  const FamilyRegistry& families, const std::string& nvrtc_version,
                                  ImageStore& images);

}  // namespace quern
