// The settings of every service: one struct each, with default, unit and effect beside each field.
// Filled by Settings (shared/base/settings.h); declared here, not in the services, because one file
// configures them all and `conclave up` starts them all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "shared/base/settings.h"
#include "shared/tls/certificate_files.h"

namespace conclave {

// Section "": common to all programs.
struct CommonOptions {
  std::string model;        // checkpoint folder, packed file, or org/name in the local Hugging Face
                            // cache; empty: none
  std::string served_name;  // name in the API; empty: that of folder or file
  // f32, bf16, int8, int4, or auto: bf16, or a packed file's own, or what keeps stored int4 as it
  // is
  std::string numerics = "auto";
  // gRPC address of the controller; the setting is called controller_address, because controller:
  // is a section of the file
  std::string controller = "127.0.0.1:8010";
  std::string state_dir;  // state, logs; empty: $XDG_STATE_HOME/conclave or ~/.local/state/conclave
  std::string cluster_secret_file;  // file with the secret that processes show each other; needed
                                    // beyond loopback
  std::string cluster_id;           // processes of another id are refused; empty: that of the first
                                    // controller, kept beside the topology (a controller draws one)
  std::string api_key_file;         // file with the API key that the command line shows the gateway
  tls::CertificateFiles tls;        // mutual TLS between the processes: all three files, or none
  std::string tls_server_name = "conclave";  // DNS name that the certificate of every process has
  std::string api_ca_file;          // authorities of the gateway's certificate, for the command
                                    // line: PEM, or "system"; empty: the gateway speaks no TLS
  bool insecure = false;            // allow addresses beyond loopback that nothing guards
  std::string log_level = "info";   // debug, info, warning, error
  std::string log_format = "text";  // text, json
  bool strict_config = false;       // refuse unknown fields of config.json
  int32_t drain_seconds = 20;       // grace for running requests after SIGTERM

  absl::Status Validate() const;
};

struct GatewayOptions {
  std::string name = "gateway";
  std::string http_listen = "127.0.0.1:8000";  // OpenAI-compatible API, /livez, /readyz
  std::string grpc_listen = "127.0.0.1:8001";  // InferenceService
  std::string ops_listen = "127.0.0.1:9000";   // /livez /readyz /metrics
  std::string advertise;  // host other processes reach this one by; empty: the listen address
  tls::CertificateFiles tls = {.prefix = "gateway.server"};  // shown to clients; no `ca`
  std::string allowed_hosts;  // names besides loopback and the bound address that a Host header may
                              // have, separated by commas
  ByteSize max_body{4 << 20};       // largest HTTP body or gRPC message accepted
  int32_t max_connections = 16384;  // open HTTP connections; further ones get 503
  int32_t max_running = 256;        // requests on engines at once
  int32_t max_waiting = 1024;  // requests that wait for a place, before new ones are refused with
                               // retry-after
  std::string class_weights =
      "realtime=64,interactive=16,batch=4,sheddable=1";  // shares of QoS
                                                         // classes that wait
  int32_t queue_aging_s = 20;  // a request that waits so long counts as one of the class above; 0:
                               // never
  std::string keys_file;       // API keys and tenants; empty: nobody has to show a key
  ByteSize cache_memory{64 << 20};  // kept answers; 0: none are kept
  int32_t cache_ttl_s = 3600;       // how long an answer is kept
  int32_t grpc_connection_age_s =
      0;                          // a client's connection so old is replaced by a new one; 0: never
  int32_t lame_duck_seconds = 0;  // after SIGTERM: not ready, and serving all the same, so that
                                  // balancers go elsewhere before anything is refused
  int32_t first_token_timeout_s = 600;  // a request that waits longer for its first token fails

  absl::Status Validate() const;
};

// Common to the sections "engine" and "expert": processes that compute.
struct MemberOptions {
  std::string name;        // unique in the cluster
  std::string listen;      // gRPC
  std::string ops_listen;  // /livez /readyz /metrics
  std::string advertise;   // host other processes reach this one by; empty: the listen address
  int32_t threads = 0;     // compute threads; 0: the cores this process may use
  std::string cpu_level = "auto";  // auto, or a level of kernels/context.h

  // `section`: "engine" or "expert".
  absl::Status Validate(std::string_view section) const;
};

struct EngineOptions : MemberOptions {
  EngineOptions();  // engine-0, ports 8020 and 9020

  std::string experts = "remote";  // remote: expert workers; local: in this process
  bool host_links = true;          // workers of this host by shared memory, not over gRPC
  int64_t context = 0;  // longest prompt + output, tokens; 0: what the model allows and memory fits
  ByteSize kv_memory{0};         // KV cache; 0: what fits
  double kv_memory_share = 0.4;  // then of the free memory at most, by all engines of a machine
  bool prefix_cache = true;      // keep what prompts and answers left in the KV cache
  // Predicted length of a step into which prefill is cut. A step with realtime rows is cut by what
  // these take alone instead: others stretch it by a twentieth, one in 512 to four times that.
  double step_budget_ms = 50;
  double prefill_budget_ms = 3000;
  int32_t max_batch = 256;     // sequences running at once
  int32_t max_waiting = 1024;  // sequences queued before new ones are refused
  int32_t missing_expert_wait_ms =
      2000;  // how long a request waits for an expert without a live worker

  absl::Status Validate() const;
};

struct ExpertOptions : MemberOptions {
  ExpertOptions();  // expert-0, ports 8030 and 9030

  ByteSize memory{0};           // for experts; 0: no limit
  int32_t max_queue_mib = 256;  // bytes of frames in flight before a stream is paused, MiB
  // Where engines of this host meet the worker to share memory: the path of a socket; auto:
  // NAME.rows in the state_dir; off: nowhere
  std::string host_socket = "auto";

  absl::Status Validate() const;
};

struct ControllerOptions {
  std::string listen = "127.0.0.1:8010";
  std::string ops_listen = "127.0.0.1:9010";
  int32_t lease_ms = 2000;         // a silent member is gone after this long
  int32_t report_period_ms = 500;  // how often members report
  // Kubernetes: the Lease whose holder is the one controller that works; empty: none
  std::string lease_name;
  // where Kubernetes puts a pod's token, ca.crt and namespace
  std::string service_account_dir = "/var/run/secrets/kubernetes.io/serviceaccount";

  absl::Status Validate() const;
};

// The local cluster that `conclave up` starts.
struct UpOptions {
  int32_t workers = 2;  // expert workers
  int32_t engines = 1;
  int32_t base_port = 8000;       // gateway HTTP; the other ports lie at fixed distances above it
  bool auto_ports = false;        // take the nearest free ports instead of failing when one is busy
  int32_t start_timeout_s = 600;  // how long to wait until everything is ready, loading included

  absl::Status Validate() const;
};

// INVALID_ARGUMENT unless `address` is host:port and either loopback, or guarded by a cluster
// secret, or `insecure` is set. `setting` is the key named in the message, such as "engine.listen".
absl::Status CheckListen(std::string_view setting, std::string_view address,
                         const CommonOptions& common);

// Who besides its owner may read the file of the cluster secret, and what to do: one line to warn
// with; empty when it is as it should be or there is none.
std::string SecretExposure(const CommonOptions& common);

// Where state and logs lie: state_dir, else $XDG_STATE_HOME/conclave, else ~/.local/state/conclave,
// else /tmp/conclave-UID.
std::string StateDir(const CommonOptions& common);

// All sections.
struct AllOptions {
  CommonOptions common;
  GatewayOptions gateway;
  EngineOptions engine;
  ExpertOptions expert;
  ControllerOptions controller;
  UpOptions up;

  // Declares the settings of all sections on `settings`; this object outlives it.
  void Bind(Settings& settings);

  // What strangers find at the gateway's API, where others than this machine reach it and nobody
  // has to show a key or it is not encrypted: one line to warn with, else empty.
  std::string ApiExposure() const;

  // Checks the common section and that of one program ("gateway", "engine", "expert", "controller",
  // "up"), and that its ports are loopback or guarded: the gateway's API by keys or a certificate,
  // all others as CheckListen says. The first error, naming the setting, what was found and what it
  // may be.
  absl::Status Validate(std::string_view section) const;
};

}  // namespace conclave
