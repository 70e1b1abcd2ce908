// Taken from the library only by programs that do not bring a Commit() of their own
// (cmake/Conclave.cmake, conclave_program).
#include "shared/base/version.h"

namespace conclave {

std::string_view Commit() { return "unknown"; }

}  // namespace conclave
