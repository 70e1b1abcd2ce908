// A process' membership: reports to the controller under a lease, and receives the topology.
//
// One per process. Owns one thread ("member") and, while connected, a second that reads. Callbacks
// run on the reading thread, one at a time; they must not block. Without a controller of its own
// cluster the last topology, kept on disk, goes on; the thread tries to reconnect for ever.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/placement/topology.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/cluster_secret.h"
#include "shared/rpc/tls_credentials.h"

namespace conclave::placement {

enum class MemberKind : uint8_t { kGateway = 1, kEngine = 2, kExpert = 3 };
enum class MemberState : uint8_t { kLoading = 1, kReady = 2, kDraining = 3 };

// How far the experts of a worker that drains are handed over.
enum class Handover : uint8_t {
  kNone = 0,     // it does not drain, or the controller has not said yet
  kMoving = 1,   // others load them; it serves on
  kNoRoom = 2,   // some fit on no other worker; it serves on while its drain time lasts
  kNoTaker = 3,  // there is no other worker
  kDone = 4,     // no engine sends it anything any more
};

struct EngineLoad {
  int32_t running = 0;
  int32_t waiting = 0;
  int64_t queued_tokens = 0;
  double kv_used_ratio = 0;
  int64_t context_tokens = 0;
  double tokens_per_second = 0;
  int64_t last_step_age_ms = 0;  // since the step loop last turned; grows when it hangs
};

struct ExpertLoad {
  double rows_per_second = 0;
  double queue_ms = 0;
};

struct GatewayLoad {
  int32_t running = 0;
};

// What a member says of itself at each report.
struct MemberStatus {
  MemberState state = MemberState::kLoading;
  std::optional<ModelIdentity> model;  // engines and workers, once the checkpoint is open
  ExpertKeys holds;                    // workers: loaded and servable
  int64_t capacity_bytes = 0;          // workers: memory for experts; 0: no limit
  std::string note;                    // one line for `ps`, such as "loading 41 %"
  EngineLoad engine;
  ExpertLoad expert;
  GatewayLoad gateway;
};

// An engine, as gateways see it.
struct EngineEndpoint {
  std::string name;
  std::string address;
  std::string fingerprint;
  std::string served_name;
  MemberState state = MemberState::kLoading;
  EngineLoad load;
};

// What gateways get at every report period.
struct ClusterView {
  std::vector<EngineEndpoint> engines;  // live ones, ascending by name
};

class Membership {
 public:
  struct Options {
    std::string controller;  // host:port
    rpc::ClusterSecret secret;
    std::shared_ptr<const rpc::TlsCredentials> tls = {};  // null: not encrypted
    // Learned from the kept topology, or from the first controller, if it is not known yet. Null:
    // one of its own.
    std::shared_ptr<rpc::ClusterId> cluster;
    std::string name;  // "engine-0"
    MemberKind kind = MemberKind::kEngine;
    std::string address;          // host:port of the gRPC port, as others reach it
    std::string ops_address;      // host:port of the HTTP port
    HostSocket host_socket = {};  // of a worker that has one
    std::string state_dir;        // topology-<name>.json is kept here; empty: not kept
    // Called before each report, on the member thread; thread-safe and quick.
    std::function<MemberStatus()> status;
    // Called with each newer topology (first the one from disk, if there is one), in order; the
    // controller is told that it is applied when this has returned. May be null.
    std::function<void(std::shared_ptr<const Topology>)> on_topology;
    // Gateways: called at every report period. May be null.
    std::function<void(const ClusterView&)> on_cluster;
    // Workers that drain: called with what the controller says of it. May be null.
    std::function<void(Handover)> on_handover;
    // Workers: called with why the controller gives this one no experts whenever that changes;
    // empty when nothing stands in the way. May be null.
    std::function<void(const std::string&)> on_idle;
    // Called once when the controller refuses this member for good (its name is taken, a wrong
    // secret); default: logs. May be null. A controller of another cluster is not final: this
    // cluster's own may get its port back.
    std::function<void(const absl::Status&)> on_refused;
    // Called with a line for /readyz when the controller's address turns out to belong to another
    // cluster, and with an empty one when that is over. It hinders no serving. May be null.
    std::function<void(const std::string&)> on_note;
  };

  // Returns at once; connecting goes on in the background. INVALID_ARGUMENT for an unusable option.
  static absl::StatusOr<std::unique_ptr<Membership>> Start(Options options);
  ~Membership();  // leaves, joins

  std::shared_ptr<const Topology> topology() const;  // null before the first
  bool connected() const;                            // to a controller, now

  // Sends a report soon instead of at the next period: after a change of state or holdings.
  void ReportNow();

  // Tells the controller that this member is going, so that its lease ends at once. Idempotent;
  // waits at most a second.
  void Leave();

 private:
  struct State;
  explicit Membership(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::placement
