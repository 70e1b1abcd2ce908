// The file of API keys and tenants: what `conclave key` writes and gateways read.
//
// JSON, one object of version, tenants and keys (docs/formats.md). A key's secret is not in it,
// only a salted hash: whoever reads the file can use no key. Written whole and renamed, so that a
// reader finds the old file or the new one.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/base/qos_class.h"

namespace conclave::identity {

// For whom requests run. A tenant that keys name and that is not listed has the defaults.
struct TenantRecord {
  std::string name;
  double weight = 1;                         // of its share among tenants that wait
  QosClass top_class = QosClass::kRealtime;  // requests for a more urgent class run as this
  int32_t max_running = 0;                   // requests on engines at once; 0: no limit of its own
  bool shares_cache = false;                 // takes kept answers of other such tenants
};

struct KeyRecord {
  std::string id;      // 8 hex digits, part of the key's text; unique
  std::string tenant;  // 1 to 64 of a-z A-Z 0-9 . _ -
  std::string note;    // for people
  std::string salt;    // 32 hex digits
  std::string hash;    // 64 hex digits: SHA-256 of salt and secret, as text
  int64_t created_unix_s = 0;
  std::optional<int64_t> expires_unix_s;
  std::optional<int64_t> revoked_unix_s;
  std::vector<std::string> models;  // served names; empty: all
  std::vector<QosClass> classes;    // empty: all
  int64_t requests_per_minute = 0;  // 0: no limit
  int64_t tokens_per_minute = 0;    // of prompts and answers; 0: no limit
};

struct KeyFile {
  std::vector<TenantRecord> tenants;
  std::vector<KeyRecord> keys;
};

// NOT_FOUND: no such file. INVALID_ARGUMENT names the file, the record and the field.
absl::StatusOr<KeyFile> ReadKeyFile(const std::string& path);
absl::StatusOr<KeyFile> ParseKeyFile(std::string_view json, const std::string& path);
// A file that is there keeps its owner and mode, so that a gateway of another user reads the new
// one as it read the old one (errors as WriteFileAtomically); a new one has mode 0600.
absl::Status WriteKeyFile(const std::string& path, const KeyFile& file);

// A key's text, "cv-<id>-<secret>": shown once, when the key is made.
struct DrawnKey {
  KeyRecord record;  // id, salt and hash are set
  std::string text;
};
DrawnKey DrawKey();

// The two parts of a key's text; nullopt: it has another form.
struct KeyParts {
  std::string_view id;
  std::string_view secret;
};
std::optional<KeyParts> SplitKey(std::string_view text);
// Takes the same time for every wrong secret.
bool Matches(const KeyRecord& record, std::string_view secret);

// OK, or how a tenant's name should look.
absl::Status CheckTenantName(std::string_view name);

}  // namespace conclave::identity
