// conclave.v1.QosClass, and what the programs call it.
#pragma once

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "shared/base/qos_class.h"

namespace conclave::rpc {

v1::QosClass ToProto(QosClass qos);

// Unspecified is interactive. INVALID_ARGUMENT, naming the field `qos`, for a number without a
// class: the enum is open.
absl::StatusOr<QosClass> FromProto(v1::QosClass qos);

}  // namespace conclave::rpc
