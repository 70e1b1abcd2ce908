#include "shared/options/options.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <initializer_list>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "shared/base/address.h"
#include "shared/base/status_macros.h"

namespace conclave {
namespace {

absl::Status NotOneOf(std::string_view setting, const std::string& found,
                      std::initializer_list<std::string> allowed) {
  for (const std::string& value : allowed) {
    if (value == found) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(std::string(setting), " is \"", found,
                                                 "\"; it may be ", absl::StrJoin(allowed, ", ")));
}

template <typename Number>
absl::Status OutOfRange(std::string_view setting, Number found, Number least, Number most) {
  if (found >= least && found <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(setting), " is ", found, "; it may be from ", least, " to ", most));
}

absl::Status BadAddress(std::string_view setting, const std::string& address) {
  const auto parsed = ParseAddress(address);
  if (parsed.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(setting), ": ", parsed.status().message()));
}

// Names are file names, metric labels and parts of log lines.
absl::Status BadName(std::string_view setting, const std::string& name) {
  const bool good =
      !name.empty() && name.size() <= 63 &&
      name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
          std::string::npos &&
      name.front() != '.' && name.front() != '-';
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(setting), " is \"", name,
                   "\"; it may be 1 to 63 letters, digits, '-', '_' and '.', and starts with a "
                   "letter, a digit or '_'"));
}

// An advertised host takes the place of the listen address's host; an empty one means none.
absl::Status BadHost(std::string_view setting, const std::string& host) {
  if (host.find_first_of(" /\t\n") == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      std::string(setting), " is \"", host, "\"; it may be a host name or number without a port"));
}

// What the Host header may name: an asterisk stands for a whole first label, or it would match
// nothing.
absl::Status BadHostNames(std::string_view setting, const std::string& names) {
  for (const absl::string_view part : absl::StrSplit(names, ',', absl::SkipWhitespace())) {
    absl::string_view name = absl::StripAsciiWhitespace(part);
    absl::ConsumePrefix(&name, "*.");
    if (!name.empty() && name.find_first_of("*/ \t") == absl::string_view::npos) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(setting), " has \"", absl::StripAsciiWhitespace(part),
                     "\"; wanted host names, such as llm.example.org or *.example.org"));
  }
  return absl::OkStatus();
}

// Names of Kubernetes objects are parts of DNS names.
absl::Status BadLeaseName(std::string_view setting, const std::string& name) {
  const auto is_end = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  const bool good =
      name.empty() ||
      (name.size() <= 253 && is_end(name.front()) && is_end(name.back()) &&
       name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-.") == std::string::npos);
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      std::string(setting), " is \"", name,
      "\"; it may be empty, or the name of a Lease: lower-case letters, digits, '-' and '.'"));
}

constexpr int32_t kLongestMs = 3'600'000;

void BindMember(std::string_view section, MemberOptions& member, Settings& s) {
  s.Add(section, "name", &member.name, "this member's name, unique in the cluster");
  s.Add(section, "listen", &member.listen, "host:port of gRPC");
  s.Add(section, "ops_listen", &member.ops_listen, "host:port of /livez, /readyz, /metrics");
  s.Add(section, "advertise", &member.advertise,
        "host by which others reach it; empty: the listen address");
  s.Add(section, "threads", &member.threads, "compute threads; 0: the usable cores");
  s.Add(section, "cpu_level", &member.cpu_level,
        "kernels: auto, reference, avx2, avx2_vnni, avx512, avx512_vnni, avx512_bf16");
}

constexpr char kSetKeys[] = "gateway.keys_file (`conclave key create` makes one)";
constexpr char kSetCertificate[] = "gateway.server_cert_file with gateway.server_key_file";

// For the gateway's API: strangers have to show a key, or it is at least encrypted.
absl::Status CheckApiListen(const char* setting, const std::string& address,
                            const AllOptions& options) {
  ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  if (IsLoopback(parsed.host) || options.common.insecure || !options.gateway.keys_file.empty() ||
      options.gateway.tls.configured()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      setting, " is ", address, ", which other machines can reach; set ", kSetKeys, ", and ",
      kSetCertificate, ", or insecure to let everybody use it, or listen on 127.0.0.1"));
}

}  // namespace

absl::Status CommonOptions::Validate() const {
  RETURN_IF_ERROR(NotOneOf("numerics", numerics, {"auto", "f32", "bf16", "int8", "int4"}));
  RETURN_IF_ERROR(BadAddress("controller_address", controller));
  if (!cluster_id.empty()) RETURN_IF_ERROR(BadName("cluster_id", cluster_id));
  RETURN_IF_ERROR(NotOneOf("log_level", log_level, {"debug", "info", "warning", "error"}));
  RETURN_IF_ERROR(NotOneOf("log_format", log_format, {"text", "json"}));
  return OutOfRange("drain_seconds", drain_seconds, 0, 3600);
}

absl::Status GatewayOptions::Validate() const {
  RETURN_IF_ERROR(BadName("gateway.name", name));
  RETURN_IF_ERROR(BadAddress("gateway.http_listen", http_listen));
  RETURN_IF_ERROR(BadAddress("gateway.grpc_listen", grpc_listen));
  RETURN_IF_ERROR(BadAddress("gateway.ops_listen", ops_listen));
  RETURN_IF_ERROR(BadHost("gateway.advertise", advertise));
  RETURN_IF_ERROR(BadHostNames("gateway.allowed_hosts", allowed_hosts));
  RETURN_IF_ERROR(OutOfRange<int64_t>("gateway.max_body", max_body.bytes, 1024, int64_t{1} << 30));
  RETURN_IF_ERROR(OutOfRange("gateway.max_connections", max_connections, 1, 1'000'000));
  RETURN_IF_ERROR(OutOfRange("gateway.max_running", max_running, 1, 1'000'000));
  RETURN_IF_ERROR(OutOfRange("gateway.max_waiting", max_waiting, 0, 1'000'000));
  RETURN_IF_ERROR(
      OutOfRange<int64_t>("gateway.cache_memory", cache_memory.bytes, 0, int64_t{1} << 40));
  RETURN_IF_ERROR(OutOfRange("gateway.cache_ttl_s", cache_ttl_s, 1, 31'536'000));
  RETURN_IF_ERROR(OutOfRange("gateway.queue_aging_s", queue_aging_s, 0, 86'400));
  RETURN_IF_ERROR(OutOfRange("gateway.grpc_connection_age_s", grpc_connection_age_s, 0, 86'400));
  RETURN_IF_ERROR(OutOfRange("gateway.lame_duck_seconds", lame_duck_seconds, 0, 3600));
  return OutOfRange("gateway.first_token_timeout_s", first_token_timeout_s, 1, 86'400);
}

absl::Status MemberOptions::Validate(std::string_view section) const {
  const auto key = [section](const char* name) { return absl::StrCat(std::string(section), name); };
  RETURN_IF_ERROR(BadName(key(".name"), name));
  RETURN_IF_ERROR(BadAddress(key(".listen"), listen));
  RETURN_IF_ERROR(BadAddress(key(".ops_listen"), ops_listen));
  RETURN_IF_ERROR(BadHost(key(".advertise"), advertise));
  RETURN_IF_ERROR(OutOfRange(key(".threads"), threads, 0, 1024));
  return NotOneOf(
      key(".cpu_level"), cpu_level,
      {"auto", "reference", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16"});
}

EngineOptions::EngineOptions() {
  name = "engine-0";
  listen = "127.0.0.1:8020";
  ops_listen = "127.0.0.1:9020";
}

absl::Status EngineOptions::Validate() const {
  RETURN_IF_ERROR(MemberOptions::Validate("engine"));
  RETURN_IF_ERROR(NotOneOf("engine.experts", experts, {"remote", "local"}));
  RETURN_IF_ERROR(OutOfRange<int64_t>("engine.context", context, 0, 16'777'216));
  RETURN_IF_ERROR(OutOfRange("engine.step_budget_ms", step_budget_ms, 0.1, 60'000.0));
  RETURN_IF_ERROR(OutOfRange("engine.prefill_budget_ms", prefill_budget_ms, 0.0, 4000.0));
  RETURN_IF_ERROR(OutOfRange("engine.kv_memory_share", kv_memory_share, 0.001, 0.95));
  RETURN_IF_ERROR(OutOfRange("engine.max_batch", max_batch, 1, 65'536));
  RETURN_IF_ERROR(OutOfRange("engine.max_waiting", max_waiting, 1, 1'000'000));
  return OutOfRange("engine.missing_expert_wait_ms", missing_expert_wait_ms, 0, kLongestMs);
}

ExpertOptions::ExpertOptions() {
  name = "expert-0";
  listen = "127.0.0.1:8030";
  ops_listen = "127.0.0.1:9030";
}

absl::Status ExpertOptions::Validate() const {
  RETURN_IF_ERROR(MemberOptions::Validate("expert"));
  RETURN_IF_ERROR(OutOfRange("expert.max_queue_mib", max_queue_mib, 1, 65'536));
  if (host_socket == "auto" || host_socket == "off" || host_socket.starts_with('/'))
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("expert.host_socket: ", host_socket, ", wanted auto, off, or an absolute path"));
}

absl::Status ControllerOptions::Validate() const {
  RETURN_IF_ERROR(BadAddress("controller.listen", listen));
  RETURN_IF_ERROR(BadAddress("controller.ops_listen", ops_listen));
  RETURN_IF_ERROR(OutOfRange("controller.report_period_ms", report_period_ms, 10, kLongestMs));
  RETURN_IF_ERROR(OutOfRange("controller.lease_ms", lease_ms, 20, kLongestMs));
  RETURN_IF_ERROR(BadLeaseName("controller.lease_name", lease_name));
  if (lease_ms < 2 * report_period_ms) {
    return absl::InvalidArgumentError(
        absl::StrCat("controller.lease_ms is ", lease_ms, " and controller.report_period_ms is ",
                     report_period_ms,
                     "; a lease lasts at least two reports: raise the one or lower the other"));
  }
  return absl::OkStatus();
}

absl::Status UpOptions::Validate() const {
  RETURN_IF_ERROR(OutOfRange("up.workers", workers, 0, 64));
  RETURN_IF_ERROR(OutOfRange("up.engines", engines, 1, 10));
  RETURN_IF_ERROR(OutOfRange("up.base_port", base_port, 1024, 64'000));
  return OutOfRange("up.start_timeout_s", start_timeout_s, 1, 86'400);
}

absl::Status CheckListen(std::string_view setting, std::string_view address,
                         const CommonOptions& common) {
  ASSIGN_OR_RETURN(const Address parsed, ParseAddress(address));
  if (IsLoopback(parsed.host) || common.insecure || common.tls.configured() ||
      !common.cluster_secret_file.empty()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      std::string(setting), " is ", std::string(address),
      ", which other machines can reach; set cluster_secret_file (the same secret for all "
      "processes) or tls_cert_file, or insecure to allow it without, or listen on 127.0.0.1"));
}

std::string SecretExposure(const CommonOptions& common) {
  struct stat status;
  if (common.cluster_secret_file.empty() ||
      stat(common.cluster_secret_file.c_str(), &status) != 0 ||
      (status.st_mode & (S_IRGRP | S_IROTH)) == 0) {
    return "";
  }
  return absl::StrCat("cluster_secret_file ", common.cluster_secret_file, " can be read by ",
                      (status.st_mode & S_IROTH) != 0 ? "everybody" : "its group",
                      " on this machine; chmod 600 ", common.cluster_secret_file);
}

std::string StateDir(const CommonOptions& common) {
  if (!common.state_dir.empty()) return common.state_dir;
  const char* state_home = std::getenv("XDG_STATE_HOME");
  if (state_home != nullptr && state_home[0] == '/') return absl::StrCat(state_home, "/conclave");
  const char* home = std::getenv("HOME");
  if (home != nullptr && home[0] == '/') return absl::StrCat(home, "/.local/state/conclave");
  return absl::StrCat("/tmp/conclave-", getuid());
}

void AllOptions::Bind(Settings& s) {
  s.Add("", "model", &common.model,
        "checkpoint folder, packed file, or org/name in the Hugging Face cache");
  s.Add("", "served_name", &common.served_name,
        "model name in the API; empty: that of folder or file");
  s.Add("", "numerics", &common.numerics,
        "numerics class: f32, bf16, int8, int4 or auto (bf16, or what the model is stored in if "
        "packed or int4)");
  s.Add("", "controller_address", &common.controller, "host:port of the controller's gRPC");
  s.Add("", "state_dir", &common.state_dir,
        "folder of state and logs; empty: ~/.local/state/conclave");
  s.Add("", "cluster_secret_file", &common.cluster_secret_file,
        "file with the secret that processes show each other; needed beyond loopback");
  s.Add("", "cluster_id", &common.cluster_id,
        "the cluster's name, by which foreign processes are refused; empty: drawn or learned");
  s.Add("", "api_key_file", &common.api_key_file,
        "file with the API key that run, chat and bench show the gateway");
  s.Add("", "api_ca_file", &common.api_ca_file,
        "authorities that the gateway's certificate is checked against, PEM, or \"system\"; empty: "
        "the gateway is called without TLS");
  s.Add("", "tls_cert_file", &common.tls.cert,
        "this process' certificate for TLS between processes, PEM; empty: no TLS between them");
  s.Add("", "tls_key_file", &common.tls.key, "the key of that certificate, PEM");
  s.Add("", "tls_ca_file", &common.tls.ca,
        "the authorities that other processes' certificates are checked against, PEM");
  s.Add("", "tls_server_name", &common.tls_server_name,
        "the DNS name that the certificate of every process has");
  s.Add("", "insecure", &common.insecure, "allow addresses beyond loopback that nothing guards");
  s.Add("", "log_level", &common.log_level, "debug, info, warning or error");
  s.Add("", "log_format", &common.log_format, "text or json");
  s.Add("", "strict_config", &common.strict_config, "refuse unknown fields of config.json");
  s.Add("", "drain_seconds", &common.drain_seconds, "grace for running requests at the end, s");

  s.Add("gateway", "name", &gateway.name, "this member's name, unique in the cluster");
  s.Add("gateway", "http_listen", &gateway.http_listen, "host:port of the HTTP API");
  s.Add("gateway", "grpc_listen", &gateway.grpc_listen, "host:port of the gRPC API");
  s.Add("gateway", "ops_listen", &gateway.ops_listen, "host:port of /livez, /readyz, /metrics");
  s.Add("gateway", "server_cert_file", &gateway.tls.cert,
        "certificate shown to clients over HTTP and gRPC, PEM; empty: no TLS");
  s.Add("gateway", "server_key_file", &gateway.tls.key, "the key of that certificate, PEM");
  s.Add("gateway", "advertise", &gateway.advertise,
        "host by which others reach it; empty: the listen address");
  s.Add(
      "gateway", "allowed_hosts", &gateway.allowed_hosts,
      "names that a Host header may have besides this host's own, comma-separated; *.name: all of "
      "one label more");
  s.Add("gateway", "max_body", &gateway.max_body, "largest HTTP body or gRPC message, bytes");
  s.Add("gateway", "max_connections", &gateway.max_connections,
        "open HTTP connections, further ones get 503");
  s.Add("gateway", "max_running", &gateway.max_running, "requests on engines at once, more wait");
  s.Add("gateway", "max_waiting", &gateway.max_waiting, "requests that wait, more are refused");
  s.Add("gateway", "class_weights", &gateway.class_weights,
        "shares of the QoS classes when requests of several wait");
  s.Add("gateway", "queue_aging_s", &gateway.queue_aging_s,
        "wait after which a request counts as one of the class above, s; 0: never");
  s.Add("gateway", "keys_file", &gateway.keys_file,
        "API keys and tenants, made by `conclave key`; empty: nobody has to show a key");
  s.Add("gateway", "cache_memory", &gateway.cache_memory, "kept answers, bytes; 0: none");
  s.Add("gateway", "cache_ttl_s", &gateway.cache_ttl_s, "how long an answer is kept, s");
  s.Add("gateway", "grpc_connection_age_s", &gateway.grpc_connection_age_s,
        "gRPC clients' connections so old are replaced by new ones, which find other gateways, s; "
        "0: never");
  s.Add("gateway", "lame_duck_seconds", &gateway.lame_duck_seconds,
        "seconds after SIGTERM in which it is not ready, but serves on; then drain_seconds begin");
  s.Add("gateway", "first_token_timeout_s", &gateway.first_token_timeout_s,
        "longest wait for a first token, s");

  BindMember("engine", engine, s);
  s.Add("engine", "experts", &engine.experts, "remote: on expert workers; local: in this process");
  s.Add("engine", "host_links", &engine.host_links,
        "reach workers of this host through shared memory, not over gRPC");
  s.Add("engine", "context", &engine.context,
        "longest prompt and output together, tokens; 0: what the model allows and memory fits");
  s.Add("engine", "kv_memory", &engine.kv_memory, "KV cache, bytes; auto: what fits");
  s.Add("engine", "kv_memory_share", &engine.kv_memory_share,
        "if kv_memory is auto: most that KV caches take of the memory that is free at the start");
  s.Add("engine", "prefix_cache", &engine.prefix_cache,
        "keep keys and values of what has ended, for prompts that begin equally");
  s.Add("engine", "step_budget_ms", &engine.step_budget_ms,
        "predicted length of a step without realtime rows, into which prefill is cut, but for what "
        "pays for reading the weights, ms");
  s.Add("engine", "prefill_budget_ms", &engine.prefill_budget_ms,
        "the same for prefill that no sequence waits for, as none generates, ms");
  s.Add("engine", "max_batch", &engine.max_batch, "sequences running at once");
  s.Add("engine", "max_waiting", &engine.max_waiting, "sequences queued, more are refused");
  s.Add("engine", "missing_expert_wait_ms", &engine.missing_expert_wait_ms,
        "longest wait for an expert without a live worker, ms");

  BindMember("expert", expert, s);
  s.Add("expert", "memory", &expert.memory,
        "memory for experts, bytes; auto: of the machine or container, all but what frames need");
  s.Add("expert", "max_queue_mib", &expert.max_queue_mib,
        "frames in flight before a stream is paused, MiB");
  s.Add("expert", "host_socket", &expert.host_socket,
        "socket at which engines of this host share memory with the worker; auto: NAME.rows in the "
        "state_dir; off: none");

  s.Add("controller", "listen", &controller.listen, "host:port of gRPC");
  s.Add("controller", "ops_listen", &controller.ops_listen,
        "host:port of /livez, /readyz, /metrics");
  s.Add("controller", "lease_ms", &controller.lease_ms, "a member silent this long is gone, ms");
  s.Add("controller", "report_period_ms", &controller.report_period_ms,
        "time between a member's reports, ms");
  s.Add("controller", "lease_name", &controller.lease_name,
        "Kubernetes Lease of the one controller that works; empty: none");
  s.Add("controller", "service_account_dir", &controller.service_account_dir,
        "folder of the pod's token, ca.crt and namespace");

  s.Add("up", "workers", &up.workers, "expert workers; 0: experts in the engines");
  s.Add("up", "engines", &up.engines, "engines");
  s.Add("up", "base_port", &up.base_port, "gateway HTTP port, the others lie above it");
  s.Add("up", "auto_ports", &up.auto_ports, "take the nearest free ports when some are busy");
  s.Add("up", "start_timeout_s", &up.start_timeout_s, "longest wait until all is ready, s");
}

std::string AllOptions::ApiExposure() const {
  const bool keys = !gateway.keys_file.empty();
  const bool encrypted = !gateway.tls.cert.empty();
  if (keys && encrypted) return "";
  for (const auto& [setting, listen] : {std::pair("gateway.http_listen", &gateway.http_listen),
                                        std::pair("gateway.grpc_listen", &gateway.grpc_listen)}) {
    const absl::StatusOr<Address> address = ParseAddress(*listen);
    if (!address.ok() || IsLoopback(address->host)) continue;
    return absl::StrCat(
        setting, " is ", *listen, ", which other machines can reach, and ",
        keys ? "what they send can be read on the way; set " : "nobody has to show a key; set ",
        keys        ? kSetCertificate
        : encrypted ? kSetKeys
                    : absl::StrCat(kSetKeys, ", and ", kSetCertificate));
  }
  return "";
}

absl::Status AllOptions::Validate(std::string_view section) const {
  RETURN_IF_ERROR(common.Validate());
  const auto check_listen = [&](const char* name, const std::string& address) {
    return CheckListen(absl::StrCat(std::string(section), ".", name), address, common);
  };
  if (section == "gateway") {
    RETURN_IF_ERROR(gateway.Validate());
    RETURN_IF_ERROR(CheckApiListen("gateway.http_listen", gateway.http_listen, *this));
    RETURN_IF_ERROR(CheckApiListen("gateway.grpc_listen", gateway.grpc_listen, *this));
    return check_listen("ops_listen", gateway.ops_listen);
  }
  if (section == "engine") {
    RETURN_IF_ERROR(engine.Validate());
    RETURN_IF_ERROR(check_listen("listen", engine.listen));
    return check_listen("ops_listen", engine.ops_listen);
  }
  if (section == "expert") {
    RETURN_IF_ERROR(expert.Validate());
    RETURN_IF_ERROR(check_listen("listen", expert.listen));
    return check_listen("ops_listen", expert.ops_listen);
  }
  if (section == "controller") {
    RETURN_IF_ERROR(controller.Validate());
    RETURN_IF_ERROR(check_listen("listen", controller.listen));
    return check_listen("ops_listen", controller.ops_listen);
  }
  return up.Validate();
}

}  // namespace conclave
