#include "services/gateway/identity/key_store.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

constexpr std::string_view kScheme = "bearer ";

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

absl::Status Refusal(const char* reason, const char* message) {
  return rpc::WithDetails(absl::UnauthenticatedError(message),
                          {.reason = reason, .metadata = {}, .retry_after_ms = -1, .fields = {}});
}

// A renamed file has another inode, an edited one another time, one whose owner or mode was changed
// another time of change.
std::string StateOf(const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return "";
  return absl::StrCat(status.st_dev, ":", status.st_ino, ":", status.st_size, ":",
                      status.st_mtim.tv_sec, ".", status.st_mtim.tv_nsec, ":",
                      status.st_ctim.tv_sec, ".", status.st_ctim.tv_nsec);
}

Tenant TenantOf(const identity::KeyFile& file, const std::string& name) {
  const auto found = std::find_if(file.tenants.begin(), file.tenants.end(),
                                  [&](const auto& tenant) { return tenant.name == name; });
  if (found == file.tenants.end()) return {.name = name};
  return {.name = name,
          .weight = found->weight,
          .top_class = found->top_class,
          .max_running = found->max_running,
          .shares_cache = found->shares_cache};
}

}  // namespace

std::shared_ptr<const Principal> Anybody() {
  static const auto anybody = std::make_shared<const Principal>();
  return anybody;
}

KeyStore::KeyStore(std::string path, const Clock* clock, metrics::Registry* registry)
    : path_(std::move(path)), clock_(clock), registry_(registry) {}

absl::StatusOr<std::unique_ptr<KeyStore>> KeyStore::Open(std::string path, const Clock* clock,
                                                         metrics::Registry* registry) {
  std::unique_ptr<KeyStore> store(new KeyStore(std::move(path), clock, registry));
  if (store->required()) RETURN_IF_ERROR(store->Read());
  return store;
}

absl::StatusOr<std::shared_ptr<const Principal>> KeyStore::Authenticate(
    std::string_view authorization) const {
  if (!required()) return Anybody();
  if (authorization.empty()) {
    return Refusal("KEY_MISSING",
                   "an API key is needed: send the header Authorization: Bearer KEY");
  }
  const absl::string_view text(authorization.data(), authorization.size());
  const absl::string_view scheme(kScheme.data(), kScheme.size());
  // Made when it is needed: with its details it costs more than all the rest.
  const auto unknown = [] { return Refusal("KEY_UNKNOWN", "the API key is not valid here"); };
  if (!absl::StartsWithIgnoreCase(text, scheme)) return unknown();
  const std::optional<identity::KeyParts> parts =
      identity::SplitKey(authorization.substr(kScheme.size()));
  if (!parts) return unknown();
  std::shared_ptr<const Table> table;
  {
    MutexLock lock(mutex_);
    table = table_;
  }
  const auto found = table->find(std::string(parts->id));
  if (found == table->end() || !identity::Matches(found->second.record, parts->secret)) {
    return unknown();
  }
  const identity::KeyRecord& record = found->second.record;
  if (record.revoked_unix_s) return Refusal("KEY_REVOKED", "the API key has been revoked");
  if (record.expires_unix_s && UnixSeconds() >= *record.expires_unix_s) {
    return Refusal("KEY_EXPIRED", "the API key has expired");
  }
  return found->second.principal;
}

void KeyStore::Refresh() {
  if (!required()) return;
  const std::string state = StateOf(path_);
  if (state == seen_) return;
  const absl::Status read = Read();
  if (read.ok()) {
    LogInfo("key file read", {{"path", path_}});
  } else if (state != faulty_ || read != fault_) {
    // Once for each change: it is read again until it can be used.
    LogError("the key file cannot be used; the keys of before stay",
             {{"error", std::string(read.message())}});
  }
  faulty_ = state;
  fault_ = read;
}

absl::Status KeyStore::Read() {
  // Before the file is read: a change meanwhile is seen the next time.
  std::string state = StateOf(path_);
  const absl::Status read = ReadTable();
  registry_->GetGauge("conclave_file_faulty", {{"use", "keys"}}).Set(read.ok() ? 0 : 1);
  if (read.ok()) seen_ = std::move(state);
  return read;
}

absl::Status KeyStore::ReadTable() {
  ASSIGN_OR_RETURN(identity::KeyFile file, identity::ReadKeyFile(path_));
  std::shared_ptr<const Table> before;
  {
    MutexLock lock(mutex_);
    before = table_;
  }
  const TimePoint now = clock_->Now();
  auto table = std::make_shared<Table>();
  for (identity::KeyRecord& record : file.keys) {
    auto principal = std::make_shared<Principal>();
    principal->key_id = record.id;
    principal->tenant = TenantOf(file, record.tenant);
    principal->models = record.models;
    principal->classes = record.classes;
    if (record.requests_per_minute > 0 || record.tokens_per_minute > 0) {
      // What a key has used stays used.
      const auto known = before ? before->find(record.id) : Table::const_iterator();
      if (before && known != before->end() && known->second.principal->limit) {
        principal->limit = known->second.principal->limit;
        principal->limit->SetLimits(record.requests_per_minute, record.tokens_per_minute, now);
      } else {
        principal->limit =
            std::make_shared<RateLimit>(record.requests_per_minute, record.tokens_per_minute, now);
      }
    }
    const std::string id = record.id;
    table->emplace(id, Known{.record = std::move(record), .principal = std::move(principal)});
  }
  MutexLock lock(mutex_);
  table_ = std::move(table);
  return absl::OkStatus();
}

QosClass ClassFor(const Principal& principal, std::optional<QosClass> asked) {
  if (asked) return *asked;
  if (principal.classes.empty()) return QosClass::kInteractive;
  const QosClass top = std::max(QosClass::kInteractive, principal.tenant.top_class);
  // The first one from `top` down, else the last one above it.
  std::optional<QosClass> below, above;
  for (const QosClass qos : principal.classes) {
    if (qos >= top) {
      below = std::min(qos, below.value_or(qos));
    } else {
      above = std::max(qos, above.value_or(qos));
    }
  }
  return below ? *below : *above;
}

absl::Status MayUse(const Principal& principal, const std::string& model, QosClass qos) {
  const auto denied = [](const std::string& message, const char* field) {
    return rpc::WithDetails(absl::PermissionDeniedError(message),
                            {.reason = "NOT_ALLOWED",
                             .metadata = {},
                             .retry_after_ms = -1,
                             .fields = {{field, "not allowed for this key"}}});
  };
  const auto& models = principal.models;
  if (!models.empty() && std::find(models.begin(), models.end(), model) == models.end()) {
    return denied(absl::StrCat("this key may use the models ", absl::StrJoin(models, ", "),
                               ", not \"", model, "\""),
                  "model");
  }
  const auto& classes = principal.classes;
  if (!classes.empty() && std::find(classes.begin(), classes.end(), qos) == classes.end()) {
    std::vector<std::string> names;
    for (const QosClass each : classes) names.emplace_back(QosClassName(each));
    return denied(absl::StrCat("this key may use the classes ", absl::StrJoin(names, ", "),
                               ", not ", QosClassName(qos)),
                  "qos");
  }
  return absl::OkStatus();
}

}  // namespace conclave::gateway
