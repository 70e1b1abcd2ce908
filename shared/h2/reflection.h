// grpc.reflection.v1alpha.ServerReflection: which services there are, and the files that describe
// them, for tools such as grpcurl.
#pragma once

#include <string>
#include <vector>

#include "shared/h2/server.h"

namespace conclave::h2 {

// `services`: full names of those that are listed. Descriptors are those that the process has
// linked in.
Service ReflectionService(std::vector<std::string> services);

}  // namespace conclave::h2
