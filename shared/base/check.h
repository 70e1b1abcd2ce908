// CONCLAVE_CHECK: a broken precondition ends the process at once, with a line that says where and
// what.
//
// For programmer errors only; what a user can cause is a Status.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace conclave::internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace conclave::internal

#define CONCLAVE_CHECK(condition) \
  (static_cast<bool>(condition)   \
       ? static_cast<void>(0)     \
       : ::conclave::internal::CheckFailed(__FILE__, __LINE__, #condition))
