#include "services/controller/kubernetes_lease.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "shared/base/status_macros.h"

namespace conclave::controller {
namespace {

using nlohmann::json;

constexpr uint64_t kMostTransitions = std::numeric_limits<int32_t>::max();

// Kubernetes' MicroTime.
std::string NowText() {
  return absl::FormatTime("%Y-%m-%d%ET%H:%M:%E6SZ", absl::Now(), absl::UTCTimeZone());
}

// A field of the API server's answer, or nothing where it has another type.
std::string StringIn(const json& object, const char* section, const char* key) {
  const auto at = object.find(section);
  if (at == object.end() || !at->is_object()) return "";
  const auto value = at->find(key);
  return value != at->end() && value->is_string() ? value->get<std::string>() : "";
}

int64_t NumberIn(const json& object, const char* section, const char* key) {
  const auto at = object.find(section);
  if (at == object.end() || !at->is_object()) return 0;
  const auto value = at->find(key);
  return value != at->end() && value->is_number_integer() ? value->get<int64_t>() : 0;
}

}  // namespace

KubernetesLease::KubernetesLease(Options options, const KubernetesApi* api, const Clock* clock)
    : options_(std::move(options)),
      api_(*api),
      clock_(*clock),
      collection_(absl::StrCat("/apis/coordination.k8s.io/v1/namespaces/", options_.name_space,
                               "/leases")) {}

absl::Status KubernetesLease::Refusal(const char* verb, const KubernetesApi::Answer& answer) const {
  const std::string lease = absl::StrCat("lease ", options_.name_space, "/", options_.name);
  std::string said = "no reason given";
  if (answer.body.is_object() && answer.body.contains("message") &&
      answer.body["message"].is_string()) {
    said = answer.body["message"].get<std::string>();
  }
  if (answer.status == 401 || answer.status == 403) {
    return absl::PermissionDeniedError(absl::StrCat(
        lease, ": the API server refuses to ", verb, " it (", answer.status, ": ", said,
        "); give the pod's service account a Role with get, create and update on "
        "leases of coordination.k8s.io in this namespace"));
  }
  return absl::UnavailableError(
      absl::StrCat(lease, ": the API server answers ", answer.status, " to ", verb, ": ", said));
}

absl::StatusOr<std::optional<KubernetesLease::Record>> KubernetesLease::Read() const {
  ASSIGN_OR_RETURN(const KubernetesApi::Answer answer,
                   api_.Call("GET", absl::StrCat(collection_, "/", options_.name)));
  if (answer.status == 404) return std::optional<Record>();
  if (answer.status != 200 || !answer.body.is_object()) return Refusal("get", answer);
  Record record;
  record.object = answer.body;
  record.resource_version = StringIn(answer.body, "metadata", "resourceVersion");
  record.holder = StringIn(answer.body, "spec", "holderIdentity");
  record.duration = std::chrono::seconds(
      std::clamp<int64_t>(NumberIn(answer.body, "spec", "leaseDurationSeconds"), 0, 3600));
  record.transitions = static_cast<uint64_t>(
      std::max<int64_t>(0, NumberIn(answer.body, "spec", "leaseTransitions")));
  return std::optional<Record>(std::move(record));
}

absl::StatusOr<bool> KubernetesLease::Write(const std::optional<Record>& before,
                                            const std::string& holder, uint64_t transitions) const {
  // All else in the object stays as it is, among it the resourceVersion.
  json lease = before ? before->object : json::object();
  lease["apiVersion"] = "coordination.k8s.io/v1";
  lease["kind"] = "Lease";
  if (!lease.contains("metadata") || !lease["metadata"].is_object())
    lease["metadata"] = json::object();
  lease["metadata"]["name"] = options_.name;
  lease["metadata"]["namespace"] = options_.name_space;
  if (!lease.contains("spec") || !lease["spec"].is_object()) lease["spec"] = json::object();
  json& spec = lease["spec"];
  const std::string now = NowText();
  if (!before || before->holder != holder || !held_) spec["acquireTime"] = now;
  spec["renewTime"] = now;
  spec["holderIdentity"] = holder;
  // Kubernetes wants at least a second.
  spec["leaseDurationSeconds"] =
      std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::seconds>(
                               holder.empty() ? Duration(0) : options_.duration)
                               .count());
  spec["leaseTransitions"] = std::min(transitions, kMostTransitions);
  const std::string path = before ? absl::StrCat(collection_, "/", options_.name) : collection_;
  ASSIGN_OR_RETURN(const KubernetesApi::Answer answer,
                   api_.Call(before ? "PUT" : "POST", path, lease));
  // 409: somebody wrote meanwhile. 404 of a PUT: somebody deleted it.
  if (answer.status == 409 || (before && answer.status == 404)) return false;
  if (answer.status != 200 && answer.status != 201)
    return Refusal(before ? "update" : "create", answer);
  return true;
}

bool KubernetesLease::Expired(const Record& record) {
  const TimePoint now = clock_.Now();
  if (record.resource_version != seen_version_) {
    seen_version_ = record.resource_version;
    seen_since_ = now;
  }
  return now - seen_since_ > std::max<Duration>(record.duration, std::chrono::seconds(1));
}

absl::StatusOr<KubernetesLease::Standing> KubernetesLease::TakeOrRenew(uint64_t least_term) {
  const std::string lease = absl::StrCat("lease ", options_.name_space, "/", options_.name);
  ASSIGN_OR_RETURN(const std::optional<Record> record, Read());
  const bool ours = record && record->holder == options_.identity;
  if (record && !ours) held_ = false;
  if (record && !ours && !record->holder.empty() && !Expired(*record)) {
    return Standing{.waits_for = absl::StrCat(
                        "the ", lease, " is held by ", record->holder,
                        ": one controller of a cluster works, and this one waits for its end")};
  }
  const uint64_t before = record ? record->transitions : 0;
  const bool renews = held_ && (ours || !record);  // it may have been deleted
  const uint64_t term = renews ? std::max(term_, least_term) : std::max(before, least_term) + 1;
  const TimePoint began = clock_.Now();
  ASSIGN_OR_RETURN(const bool written, Write(record, options_.identity, term));
  if (!written) {
    // Read again at the next attempt: who wrote may have renewed it, or taken it.
    return Standing{.held = held(),
                    .term = term_,
                    .waits_for = held() ? "" : absl::StrCat("the ", lease, " is being taken")};
  }
  held_ = true;
  term_ = term;
  renewed_at_ = began;
  return Standing{.held = true, .term = term_, .waits_for = ""};
}

bool KubernetesLease::held() const {
  return held_ && clock_.Now() - renewed_at_ < options_.duration - options_.safety;
}

absl::Status KubernetesLease::Release() {
  if (!std::exchange(held_, false)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::optional<Record> record, Read());
  if (!record || record->holder != options_.identity) return absl::OkStatus();
  return Write(record, "", term_).status();
}

}  // namespace conclave::controller
