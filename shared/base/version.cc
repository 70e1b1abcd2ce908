#include "shared/base/version.h"

namespace conclave {

std::string_view Version() { return CONCLAVE_VERSION; }

}  // namespace conclave
