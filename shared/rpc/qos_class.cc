#include "shared/rpc/qos_class.h"

#include "absl/strings/str_cat.h"
#include "shared/rpc/status.h"

namespace conclave::rpc {

static_assert(WireNumber(QosClass::kRealtime) == v1::QOS_CLASS_REALTIME);
static_assert(WireNumber(QosClass::kInteractive) == v1::QOS_CLASS_INTERACTIVE);
static_assert(WireNumber(QosClass::kBatch) == v1::QOS_CLASS_BATCH);
static_assert(WireNumber(QosClass::kSheddable) == v1::QOS_CLASS_SHEDDABLE);

v1::QosClass ToProto(QosClass qos) { return static_cast<v1::QosClass>(WireNumber(qos)); }

absl::StatusOr<QosClass> FromProto(v1::QosClass qos) {
  if (qos == v1::QOS_CLASS_UNSPECIFIED) return QosClass::kInteractive;
  for (const QosClass known : kQosClasses) {
    if (ToProto(known) == qos) return known;
  }
  return InvalidField(
      "qos", absl::StrCat("expected a QosClass from 0 to ", static_cast<int>(v1::QosClass_MAX),
                          ", found ", static_cast<int>(qos)));
}

}  // namespace conclave::rpc
