// RETURN_IF_ERROR and ASSIGN_OR_RETURN for absl::Status and absl::StatusOr.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function when the expression yields an error.
#define RETURN_IF_ERROR(expression)                                             \
  do {                                                                          \
    if (::absl::Status conclave_status = (expression); !conclave_status.ok()) { \
      return conclave_status;                                                   \
    }                                                                           \
  } while (false)

// ASSIGN_OR_RETURN(auto value, Function()): declares or assigns `value`, or returns the error.
#define ASSIGN_OR_RETURN(target, expression) \
  CONCLAVE_ASSIGN_OR_RETURN_(CONCLAVE_CONCAT_(conclave_status_or_, __LINE__), target, expression)

#define CONCLAVE_ASSIGN_OR_RETURN_(temporary, target, expression) \
  auto temporary = (expression);                                  \
  if (!temporary.ok()) {                                          \
    return std::move(temporary).status();                         \
  }                                                               \
  target = *std::move(temporary)

#define CONCLAVE_CONCAT_(a, b) CONCLAVE_CONCAT_INNER_(a, b)
#define CONCLAVE_CONCAT_INNER_(a, b) a##b
