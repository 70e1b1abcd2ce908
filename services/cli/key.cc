// `conclave key`: makes, lists and revokes API keys, in the key file that gateways read.
//
// No cluster need run. A running gateway follows the file within a second.
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "services/cli/command.h"
#include "services/cli/hint.h"
#include "services/cli/table.h"
#include "shared/base/status_macros.h"
#include "shared/identity/key_file.h"

namespace conclave::cli {
namespace {

using identity::KeyFile;
using identity::KeyRecord;
using identity::TenantRecord;

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// "30d", "12h", "45m", "90s".
absl::StatusOr<int64_t> ParseAge(const std::string& text) {
  const std::string units = "smhd";
  constexpr int64_t kSeconds[] = {1, 60, 3600, 86400};
  int64_t count = 0;
  const size_t unit = text.empty() ? std::string::npos : units.find(text.back());
  if (unit == std::string::npos ||
      !absl::SimpleAtoi(absl::string_view(text).substr(0, text.size() - 1), &count) || count < 1 ||
      count > int64_t{1} << 32) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--expires is \"", text, "\"; give a number and a unit: 30d, 12h, 45m or 90s"));
  }
  return count * kSeconds[unit];
}

// Two commands at once must not lose each other's change.
class FileLock {
 public:
  static absl::StatusOr<std::unique_ptr<FileLock>> Take(const std::string& path) {
    const std::string name = path + ".lock";
    const int fd = open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) != 0) {
      if (fd >= 0) close(fd);
      return absl::InvalidArgumentError(absl::StrCat("cannot lock ", name, ": ", strerror(errno)));
    }
    return std::unique_ptr<FileLock>(new FileLock(fd));
  }
  ~FileLock() { close(fd_); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  const int fd_;
};

std::string StateOf(const KeyRecord& key, int64_t now) {
  if (key.revoked_unix_s) return "revoked";
  if (key.expires_unix_s && *key.expires_unix_s <= now) return "expired";
  return "valid";
}

std::string Day(int64_t unix_s) {
  const auto time = static_cast<time_t>(unix_s);
  char text[32];
  std::tm utc{};
  gmtime_r(&time, &utc);
  std::strftime(text, sizeof text, "%Y-%m-%d", &utc);
  return text;
}

std::string OrAll(std::string text) { return text.empty() ? "all" : text; }

std::string ClassesOf(const KeyRecord& key) {
  std::vector<std::string> names;
  for (const QosClass qos : key.classes) names.emplace_back(QosClassName(qos));
  return absl::StrJoin(names, ",");
}

class KeyCommand final : public Command {
 public:
  const char* name() const override { return "key"; }
  const char* summary() const override { return "make, list and revoke API keys"; }
  void AddFlags(CLI::App& app) override {
    app.add_option("action", action_, "create, list, revoke or tenant")->type_name("ACTION");
    app.add_option("name", name_, "of the key to revoke, or of the tenant")->type_name("ID|TENANT");
    app.add_option("--tenant", tenant_, "create: for whom")->type_name("NAME");
    app.add_option("--note", note_, "create: a word for people")->type_name("TEXT");
    app.add_option("--expires", expires_, "create: how long it is valid; default: for ever")
        ->type_name("30d");
    app.add_option("--models", models_, "create: served names it may use; default: all")
        ->type_name("A,B");
    app.add_option("--classes", classes_, "create: QoS classes it may use; default: all")
        ->type_name("A,B");
    app.add_option("--requests-per-minute", requests_per_minute_, "create: 0: no limit")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--tokens-per-minute", tokens_per_minute_,
                   "create: of prompts and answers; 0: no limit")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--weight", weight_, "tenant: its share among tenants that wait");
    app.add_option("--top-class", top_class_, "tenant: the most urgent class it may have")
        ->type_name("CLASS");
    app.add_option("--max-running", max_running_, "tenant: requests at once; 0: no limit")
        ->check(CLI::NonNegativeNumber);
    app.add_option("--shares-cache", shares_cache_,
                   "tenant: whether it takes kept answers of others that do");
    app.add_flag("--json", json_, "print JSON");
  }
  int Run(const Context& context) override {
    const absl::Status done = Act(context);
    return done.ok() ? kExitOk : Fail(done);
  }

 private:
  absl::Status Act(const Context& context) {
    const std::string& path = context.options.gateway.keys_file;
    if (path.empty()) {
      return absl::InvalidArgumentError(
          "no key file: give --gateway-keys-file FILE (or set CONCLAVE_GATEWAY_KEYS_FILE), here "
          "and "
          "for the gateway");
    }
    if (action_ != "create" && action_ != "list" && action_ != "revoke" && action_ != "tenant") {
      return absl::InvalidArgumentError(
          absl::StrCat("conclave key can create, list, revoke and tenant, not \"", action_, "\""));
    }
    if (action_ == "list") {
      ASSIGN_OR_RETURN(const KeyFile file, identity::ReadKeyFile(path));
      List(file);
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const std::unique_ptr<FileLock> lock, FileLock::Take(path));
    absl::StatusOr<KeyFile> file = identity::ReadKeyFile(path);
    if (absl::IsNotFound(file.status())) file = KeyFile();
    RETURN_IF_ERROR(file.status());
    if (action_ == "create") return Create(path, *std::move(file));
    if (action_ == "revoke") return Revoke(path, *std::move(file));
    return SetTenant(path, *std::move(file));
  }

  absl::Status Create(const std::string& path, KeyFile file) const {
    if (tenant_.empty()) return absl::InvalidArgumentError("for whom? give --tenant NAME");
    RETURN_IF_ERROR(identity::CheckTenantName(tenant_));
    identity::DrawnKey drawn = identity::DrawKey();
    KeyRecord& key = drawn.record;
    key.tenant = tenant_;
    key.note = note_;
    key.created_unix_s = UnixSeconds();
    if (!expires_.empty()) {
      ASSIGN_OR_RETURN(const int64_t age, ParseAge(expires_));
      key.expires_unix_s = key.created_unix_s + age;
    }
    key.models = absl::StrSplit(models_, ',', absl::SkipEmpty());
    for (const std::string& name :
         std::vector<std::string>(absl::StrSplit(classes_, ',', absl::SkipEmpty()))) {
      ASSIGN_OR_RETURN(const QosClass qos, ReadClass("--classes", name));
      key.classes.push_back(qos);
    }
    key.requests_per_minute = requests_per_minute_;
    key.tokens_per_minute = tokens_per_minute_;
    file.keys.push_back(key);
    RETURN_IF_ERROR(identity::WriteKeyFile(path, file));
    if (json_) {
      const nlohmann::json made = {{"id", key.id}, {"tenant", key.tenant}, {"key", drawn.text}};
      std::printf("%s\n", made.dump().c_str());
    } else {
      std::printf("%s\n", drawn.text.c_str());
      std::fprintf(stderr, "key %s of tenant %s; it is shown this once, keep it\n", key.id.c_str(),
                   key.tenant.c_str());
    }
    return absl::OkStatus();
  }

  absl::Status Revoke(const std::string& path, KeyFile file) const {
    const auto found = std::find_if(file.keys.begin(), file.keys.end(),
                                    [this](const KeyRecord& key) { return key.id == name_; });
    if (name_.empty() || found == file.keys.end()) {
      return absl::InvalidArgumentError(absl::StrCat(path, " has no key with the id \"", name_,
                                                     "\"; conclave key list shows them"));
    }
    if (!found->revoked_unix_s) {
      found->revoked_unix_s = UnixSeconds();
      RETURN_IF_ERROR(identity::WriteKeyFile(path, file));
    }
    std::printf("key %s of tenant %s is revoked\n", found->id.c_str(), found->tenant.c_str());
    return absl::OkStatus();
  }

  absl::Status SetTenant(const std::string& path, KeyFile file) const {
    RETURN_IF_ERROR(identity::CheckTenantName(name_));
    auto found = std::find_if(file.tenants.begin(), file.tenants.end(),
                              [this](const TenantRecord& each) { return each.name == name_; });
    if (found == file.tenants.end()) {
      file.tenants.push_back({.name = name_});
      found = std::prev(file.tenants.end());
    }
    if (weight_) {
      if (!IsWeight(*weight_)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "--weight is ", *weight_, "; give a number from ", kLeastWeight, " to ", kMostWeight));
      }
      found->weight = *weight_;
    }
    if (!top_class_.empty()) {
      ASSIGN_OR_RETURN(found->top_class, ReadClass("--top-class", top_class_));
    }
    if (max_running_) found->max_running = *max_running_;
    if (shares_cache_) found->shares_cache = *shares_cache_;
    RETURN_IF_ERROR(identity::WriteKeyFile(path, file));
    std::printf("tenant %s: weight %g, at most %s, %s requests at once, %s\n", found->name.c_str(),
                found->weight, QosClassName(found->top_class),
                found->max_running > 0 ? absl::StrCat(found->max_running).c_str() : "any number of",
                found->shares_cache ? "shares kept answers" : "kept answers of its own");
    return absl::OkStatus();
  }

  void List(const KeyFile& file) const {
    const int64_t now = UnixSeconds();
    const std::vector<TenantRecord> tenants = TenantsOf(file);
    if (json_) {
      nlohmann::json all = {{"keys", nlohmann::json::array()},
                            {"tenants", nlohmann::json::array()}};
      for (const TenantRecord& tenant : tenants) {
        all["tenants"].push_back({{"name", tenant.name},
                                  {"weight", tenant.weight},
                                  {"top_class", QosClassName(tenant.top_class)},
                                  {"max_running", tenant.max_running},
                                  {"shares_cache", tenant.shares_cache}});
      }
      nlohmann::json& keys = all["keys"];
      for (const KeyRecord& key : file.keys) {
        keys.push_back({{"id", key.id},
                        {"tenant", key.tenant},
                        {"note", key.note},
                        {"state", StateOf(key, now)},
                        {"created", key.created_unix_s},
                        {"expires", key.expires_unix_s ? nlohmann::json(*key.expires_unix_s)
                                                       : nlohmann::json(nullptr)},
                        {"models", key.models},
                        {"classes", ClassesOf(key)},
                        {"requests_per_minute", key.requests_per_minute},
                        {"tokens_per_minute", key.tokens_per_minute}});
      }
      std::printf("%s\n",
                  all.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
      return;
    }
    std::vector<std::vector<std::string>> table = {{"ID", "TENANT", "STATE", "CREATED", "EXPIRES",
                                                    "MODELS", "CLASSES", "REQ/MIN", "TOK/MIN",
                                                    "NOTE"}};
    for (const KeyRecord& key : file.keys) {
      const auto limit = [](int64_t value) { return value > 0 ? absl::StrCat(value) : "none"; };
      table.push_back({key.id, key.tenant, StateOf(key, now), Day(key.created_unix_s),
                       key.expires_unix_s ? Day(*key.expires_unix_s) : "never",
                       OrAll(absl::StrJoin(key.models, ",")), OrAll(ClassesOf(key)),
                       limit(key.requests_per_minute), limit(key.tokens_per_minute), key.note});
    }
    std::printf("%s", FormatTable(table).c_str());
    if (tenants.empty()) return;
    std::vector<std::vector<std::string>> settings = {
        {"TENANT", "WEIGHT", "TOP CLASS", "RUNNING", "KEPT ANSWERS"}};
    for (const TenantRecord& tenant : tenants) {
      settings.push_back({tenant.name, absl::StrCat(tenant.weight), QosClassName(tenant.top_class),
                          tenant.max_running > 0 ? absl::StrCat(tenant.max_running) : "any number",
                          tenant.shares_cache ? "shared" : "own"});
    }
    std::printf("\n%s", FormatTable(settings).c_str());
  }

  // Those that are set and those that keys name, ascending; the latter have the defaults.
  static std::vector<TenantRecord> TenantsOf(const KeyFile& file) {
    std::map<std::string, TenantRecord> tenants;
    for (const TenantRecord& tenant : file.tenants) tenants.emplace(tenant.name, tenant);
    for (const KeyRecord& key : file.keys) {
      tenants.emplace(key.tenant, TenantRecord{.name = key.tenant});
    }
    std::vector<TenantRecord> sorted;
    for (auto& [name, tenant] : tenants) sorted.push_back(std::move(tenant));
    return sorted;
  }

  static absl::StatusOr<QosClass> ReadClass(const char* flag, const std::string& name) {
    const std::optional<QosClass> qos = QosClassOf(name);
    if (qos) return *qos;
    return absl::InvalidArgumentError(absl::StrCat(
        flag, " has \"", name, "\"; classes are realtime, interactive, batch and sheddable"));
  }

  std::string action_, name_, tenant_, note_, expires_, models_, classes_, top_class_;
  int64_t requests_per_minute_ = 0, tokens_per_minute_ = 0;
  std::optional<double> weight_;
  std::optional<int32_t> max_running_;
  std::optional<bool> shares_cache_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> MakeKeyCommand() { return std::make_unique<KeyCommand>(); }

}  // namespace conclave::cli
