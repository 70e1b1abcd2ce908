// Where engines of this host meet the worker to exchange frames through shared memory: a Unix
// socket for greetings, and for the news that one of the two is gone.
//
// Owns one thread ("host-links"). Owned by a main thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/expert/frame_intake.h"
#include "shared/rpc/cluster_id.h"
#include "shared/rpc/cluster_secret.h"

namespace conclave::expert {

class HostLinkServer {
 public:
  struct Options {
    std::string path;                // of the socket
    std::string name;                // of the worker; engines that want another one are refused
    rpc::ClusterSecret secret = {};  // engines have to show it
    // Engines of another cluster are refused; null: none is.
    std::shared_ptr<const rpc::ClusterId> cluster = {};
    const StreamContext* context = nullptr;  // outlives the server
  };
  // Errors of shm::HostListener::Listen; UNIMPLEMENTED when this system has no memory to share.
  static absl::StatusOr<std::unique_ptr<HostLinkServer>> Start(Options options);
  // Ends all streams.
  ~HostLinkServer();

  const std::string& path() const;

 private:
  struct State;
  explicit HostLinkServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::expert
