#include "shared/identity/key_file.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "shared/base/json_file.h"
#include "shared/base/random_bytes.h"
#include "shared/base/sha256.h"
#include "shared/base/status_macros.h"

namespace conclave::identity {

namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr std::string_view kPrefix = "cv-";
constexpr size_t kIdDigits = 8;
constexpr size_t kSaltBytes = 16;
constexpr size_t kSecretBytes = 32;
constexpr size_t kMostNameBytes = 64;

std::string HashOf(std::string_view salt, std::string_view secret) {
  const Sha256Digest digest = Sha256({salt, secret});
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

bool IsHex(const std::string& text, size_t digits) {
  return text.size() == digits && std::all_of(text.begin(), text.end(), absl::ascii_isxdigit);
}

// One object of the file, whose members are read one after the other; the first fault stays.
class Reader {
 public:
  Reader(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) Fail("", "an object");
  }

  template <typename T>
  void Read(const char* member, T* value, const char* wanted, bool required = false) {
    seen_.insert(member);
    const json* const found = Find(member);
    if (!found) {
      if (required) Fail(member, absl::StrCat(wanted, ", but it is missing"));
      return;
    }
    if (!Convert(*found, value)) Fail(member, wanted);
  }
  template <typename T>
  void Read(const char* member, std::optional<T>* value, const char* wanted) {
    seen_.insert(member);
    const json* const found = Find(member);
    if (!found) return;
    T read{};
    if (Convert(*found, &read)) {
      *value = std::move(read);
    } else {
      Fail(member, wanted);
    }
  }
  void Check(bool good, const char* member, const std::string& wanted) {
    if (!good) Fail(member, wanted);
  }
  absl::Status Finish() {
    if (status_.ok() && object_.is_object()) {
      for (const auto& [name, value] : object_.items()) {
        if (!seen_.count(name)) Fail(name, "no such field");
      }
    }
    return status_;
  }

 private:
  const json* Find(const char* member) const {
    if (!object_.is_object()) return nullptr;
    const auto found = object_.find(member);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  void Fail(const std::string& member, const std::string& wanted) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(absl::StrCat(
        where_, member.empty() ? "" : absl::StrCat(", ", member), ": expected ", wanted));
  }
  static bool Convert(const json& found, std::string* value) {
    if (!found.is_string()) return false;
    *value = found.get<std::string>();
    return true;
  }
  static bool Convert(const json& found, bool* value) {
    if (!found.is_boolean()) return false;
    *value = found.get<bool>();
    return true;
  }
  static bool Convert(const json& found, double* value) {
    if (!found.is_number()) return false;
    *value = found.get<double>();
    return true;
  }
  template <typename Integer>
    requires std::is_integral_v<Integer>
  static bool Convert(const json& found, Integer* value) {
    if (!found.is_number_integer()) return false;
    const auto read = found.get<int64_t>();
    if (read < 0 || read > std::numeric_limits<Integer>::max()) return false;
    *value = static_cast<Integer>(read);
    return true;
  }
  static bool Convert(const json& found, QosClass* value) {
    const std::optional<QosClass> qos =
        found.is_string() ? QosClassOf(found.get<std::string>()) : std::nullopt;
    if (qos) *value = *qos;
    return qos.has_value();
  }
  template <typename T>
  static bool Convert(const json& found, std::vector<T>* values) {
    if (!found.is_array()) return false;
    values->clear();
    for (const json& each : found) {
      if (!Convert(each, &values->emplace_back())) return false;
    }
    return true;
  }

  const json& object_;
  const std::string where_;
  std::set<std::string> seen_;
  absl::Status status_;
};

constexpr char kClasses[] = "realtime, interactive, batch or sheddable";

absl::StatusOr<TenantRecord> ReadTenant(const json& object, const std::string& where) {
  TenantRecord tenant;
  Reader reader(object, where);
  reader.Read("name", &tenant.name, "a string", /*required=*/true);
  reader.Read("weight", &tenant.weight, "a number");
  reader.Read("top_class", &tenant.top_class, kClasses);
  reader.Read("max_running", &tenant.max_running, "a whole number");
  reader.Read("shares_cache", &tenant.shares_cache, "true or false");
  reader.Check(CheckTenantName(tenant.name).ok(), "name", "1 to 64 of a-z A-Z 0-9 . _ -");
  reader.Check(IsWeight(tenant.weight), "weight",
               absl::StrCat("a number from ", kLeastWeight, " to ", kMostWeight));
  RETURN_IF_ERROR(reader.Finish());
  return tenant;
}

absl::StatusOr<KeyRecord> ReadKey(const json& object, const std::string& where) {
  KeyRecord key;
  Reader reader(object, where);
  reader.Read("id", &key.id, "a string", /*required=*/true);
  reader.Read("tenant", &key.tenant, "a string", /*required=*/true);
  reader.Read("note", &key.note, "a string");
  reader.Read("salt", &key.salt, "a string", /*required=*/true);
  reader.Read("hash", &key.hash, "a string", /*required=*/true);
  reader.Read("created", &key.created_unix_s, "seconds since 1970");
  reader.Read("expires", &key.expires_unix_s, "seconds since 1970");
  reader.Read("revoked", &key.revoked_unix_s, "seconds since 1970");
  reader.Read("models", &key.models, "an array of names");
  reader.Read("classes", &key.classes, kClasses);
  reader.Read("requests_per_minute", &key.requests_per_minute, "a whole number");
  reader.Read("tokens_per_minute", &key.tokens_per_minute, "a whole number");
  reader.Check(IsHex(key.id, kIdDigits), "id", "8 hexadecimal digits");
  reader.Check(IsHex(key.salt, 2 * kSaltBytes), "salt", "32 hexadecimal digits");
  reader.Check(IsHex(key.hash, 2 * sizeof(Sha256Digest)), "hash", "64 hexadecimal digits");
  reader.Check(CheckTenantName(key.tenant).ok(), "tenant", "1 to 64 of a-z A-Z 0-9 . _ -");
  RETURN_IF_ERROR(reader.Finish());
  return key;
}

template <typename T>
void PutIf(json& object, const char* member, const std::optional<T>& value) {
  if (value) object[member] = *value;
}

}  // namespace

absl::Status CheckTenantName(std::string_view name) {
  const auto good = [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  };
  if (!name.empty() && name.size() <= kMostNameBytes &&
      std::all_of(name.begin(), name.end(), good)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a tenant's name has 1 to ", kMostNameBytes, " of a-z A-Z 0-9 . _ -"));
}

absl::StatusOr<KeyFile> ReadKeyFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadRegularFile(path, kMaxJsonFileBytes));
  return ParseKeyFile(text, path);
}

absl::StatusOr<KeyFile> ParseKeyFile(std::string_view text, const std::string& path) {
  const json root = IsNestedTooDeeply(text)
                        ? json(json::value_t::discarded)
                        : json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no JSON object; `conclave key create` writes this file"));
  }
  int version = 0;
  json tenants = json::array(), keys = json::array();
  for (const auto& [name, value] : root.items()) {
    if (name == "version" && value.is_number_integer()) {
      version = value.get<int>();
    } else if (name == "tenants" && value.is_array()) {
      tenants = value;
    } else if (name == "keys" && value.is_array()) {
      keys = value;
    } else {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": \"", name, "\" is unknown or of a wrong type; expected version, tenants, keys"));
    }
  }
  if (version != kVersion) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": version is ", version, ", this program reads ", kVersion));
  }
  KeyFile file;
  std::set<std::string> names, ids;
  for (size_t i = 0; i < tenants.size(); ++i) {
    const std::string where = absl::StrCat(path, ": tenants[", i, "]");
    ASSIGN_OR_RETURN(TenantRecord tenant, ReadTenant(tenants[i], where));
    if (!names.insert(tenant.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": \"", tenant.name, "\" comes twice"));
    }
    file.tenants.push_back(std::move(tenant));
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    const std::string where = absl::StrCat(path, ": keys[", i, "]");
    ASSIGN_OR_RETURN(KeyRecord key, ReadKey(keys[i], where));
    if (!ids.insert(key.id).second) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": id ", key.id, " comes twice"));
    }
    file.keys.push_back(std::move(key));
  }
  return file;
}

absl::Status WriteKeyFile(const std::string& path, const KeyFile& file) {
  json root = {{"version", kVersion}, {"tenants", json::array()}, {"keys", json::array()}};
  for (const TenantRecord& tenant : file.tenants) {
    root["tenants"].push_back({{"name", tenant.name},
                               {"weight", tenant.weight},
                               {"top_class", QosClassName(tenant.top_class)},
                               {"max_running", tenant.max_running},
                               {"shares_cache", tenant.shares_cache}});
  }
  for (const KeyRecord& key : file.keys) {
    json object = {{"id", key.id},
                   {"tenant", key.tenant},
                   {"note", key.note},
                   {"salt", key.salt},
                   {"hash", key.hash},
                   {"created", key.created_unix_s},
                   {"models", key.models},
                   {"classes", json::array()},
                   {"requests_per_minute", key.requests_per_minute},
                   {"tokens_per_minute", key.tokens_per_minute}};
    for (const QosClass qos : key.classes) object["classes"].push_back(QosClassName(qos));
    PutIf(object, "expires", key.expires_unix_s);
    PutIf(object, "revoked", key.revoked_unix_s);
    root["keys"].push_back(std::move(object));
  }
  return WriteJsonFile(path, root, Access::kAsBefore);
}

DrawnKey DrawKey() {
  DrawnKey drawn;
  drawn.record.id = absl::BytesToHexString(RandomBytes(kIdDigits / 2));
  drawn.record.salt = absl::BytesToHexString(RandomBytes(kSaltBytes));
  const std::string secret = absl::BytesToHexString(RandomBytes(kSecretBytes));
  drawn.record.hash = HashOf(drawn.record.salt, secret);
  drawn.text = absl::StrCat(std::string(kPrefix), drawn.record.id, "-", secret);
  return drawn;
}

std::optional<KeyParts> SplitKey(std::string_view text) {
  constexpr size_t kSecretAt = kPrefix.size() + kIdDigits + 1;
  if (text.size() != kSecretAt + 2 * kSecretBytes || !text.starts_with(kPrefix) ||
      text[kSecretAt - 1] != '-') {
    return std::nullopt;
  }
  return KeyParts{.id = text.substr(kPrefix.size(), kIdDigits), .secret = text.substr(kSecretAt)};
}

bool Matches(const KeyRecord& record, std::string_view secret) {
  const std::string hash = HashOf(record.salt, secret);
  return hash.size() == record.hash.size() &&
         CRYPTO_memcmp(hash.data(), record.hash.data(), hash.size()) == 0;
}

}  // namespace conclave::identity
