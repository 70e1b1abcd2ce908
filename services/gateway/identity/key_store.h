// Who may use this gateway: the keys of the key file, kept up to date.
//
// The file is looked at about once a second (Refresh). One that cannot be read or is malformed
// changes nothing but a log line and a metric: the keys of before stay. Thread-safe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "services/gateway/generation.h"
#include "services/gateway/identity/rate_limit.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/identity/key_file.h"

namespace conclave::gateway {

// Whoever showed a valid key; without a key file, anybody.
struct Principal {
  std::string key_id;  // empty: nobody has to show a key
  Tenant tenant;
  std::vector<std::string> models;   // empty: all
  std::vector<QosClass> classes;     // empty: all
  std::shared_ptr<RateLimit> limit;  // null: none
};

class KeyStore {
 public:
  // `path` empty: everybody is the nameless tenant. Errors as identity::ReadKeyFile.
  static absl::StatusOr<std::unique_ptr<KeyStore>> Open(std::string path, const Clock* clock);

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

  KeyStore(std::string path, const Clock* clock);
  absl::Status Read() EXCLUDES(mutex_);

  const std::string path_;
  const Clock* const clock_;
  const std::shared_ptr<const Principal> anybody_;
  std::string seen_;  // what tells a changed file: inode, size, times
  mutable Mutex mutex_;
  std::shared_ptr<const Table> table_ GUARDED_BY(mutex_);
};

// OK if the principal may use the model and the class; PERMISSION_DENIED says what it may.
absl::Status MayUse(const Principal& principal, const std::string& model, QosClass qos);

}  // namespace conclave::gateway
