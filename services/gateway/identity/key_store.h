// Who may use this gateway: the keys of the key file, kept up to date.
//
// The file is looked at whenever Refresh is called, and read when it has changed. One that cannot
// be read or is malformed changes nothing but a log line and a metric (conclave_file_faulty), and
// is read again until it can be: the keys of before stay. Thread-safe but for Refresh.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "services/gateway/generation.h"
#include "services/gateway/identity/rate_limit.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/identity/key_file.h"
#include "shared/metrics/registry.h"

namespace conclave::gateway {

// Whoever showed a valid key; without a key file, anybody.
struct Principal {
  std::string key_id;  // empty: nobody has to show a key
  Tenant tenant;
  std::vector<std::string> models;   // empty: all
  std::vector<QosClass> classes;     // empty: all
  std::shared_ptr<RateLimit> limit;  // null: none
};

// Who comes where nobody has to show a key: the nameless tenant.
std::shared_ptr<const Principal> Anybody();

class KeyStore {
 public:
  // `path` empty: everybody is Anybody(). Errors as identity::ReadKeyFile. Clock and registry
  // outlive the store.
  static absl::StatusOr<std::unique_ptr<KeyStore>> Open(std::string path, const Clock* clock,
                                                        metrics::Registry* registry);

  // `authorization`: the value of that header ("Bearer cv-..."), or empty. UNAUTHENTICATED says
  // whether a key is missing, unknown, expired or revoked.
  absl::StatusOr<std::shared_ptr<const Principal>> Authenticate(
      std::string_view authorization) const EXCLUDES(mutex_);
  bool required() const { return !path_.empty(); }

  // Reads the file again if it has changed. To be called by one thread.
  void Refresh() EXCLUDES(mutex_);

 private:
  struct Known {
    identity::KeyRecord record;
    std::shared_ptr<const Principal> principal;
  };
  using Table = std::unordered_map<std::string, Known>;

  KeyStore(std::string path, const Clock* clock, metrics::Registry* registry);
  // ReadTable, and what is to be known about it.
  absl::Status Read() EXCLUDES(mutex_);
  absl::Status ReadTable() EXCLUDES(mutex_);

  const std::string path_;
  const Clock* const clock_;
  metrics::Registry* const registry_;
  // What tells a changed file: inode, size, times. Of the last one read, and of the last one that
  // was looked at, with its fault as logged.
  std::string seen_, faulty_;
  absl::Status fault_;
  mutable Mutex mutex_;
  std::shared_ptr<const Table> table_ GUARDED_BY(mutex_);
};

// The class asked for; where none is, the most urgent one that the principal may use, but not above
// interactive or its tenant's if it may use a less urgent one.
QosClass ClassFor(const Principal& principal, std::optional<QosClass> asked);

// OK if the principal may use the model and the class; PERMISSION_DENIED says what it may.
absl::Status MayUse(const Principal& principal, const std::string& model, QosClass qos);

}  // namespace conclave::gateway
