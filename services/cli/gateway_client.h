// A gateway's gRPC API, as `run`, `chat` and `bench` use it.
//
// Thread-safe: each call has a stream of its own on one shared connection.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "services/cli/command.h"
#include "services/cli/generation.h"
#include "shared/base/clock.h"
#include "shared/rpc/channel.h"

namespace conclave::cli {

class GatewayClient {
 public:
  // `state_dir` is named by hints in errors. `api_key` empty: none is shown. `tls` null: not
  // encrypted.
  GatewayClient(const std::string& address, const std::string& state_dir, std::string api_key,
                std::shared_ptr<const rpc::TlsCredentials> tls);

  const std::string& address() const { return address_; }

  // Streams one generation; `on_text` gets each piece of visible text. Setting `cancelled` from
  // another thread ends the call within 50 ms; the result then holds what came until then and the
  // finish reason "cancelled". A call that met the end of the connection before it was sent is made
  // again.
  absl::StatusOr<GenerationResult> Generate(const GenerationRequest& request,
                                            const std::function<void(const std::string&)>& on_text,
                                            const std::atomic<bool>& cancelled) const;

 private:
  absl::StatusOr<GenerationResult> Attempt(const GenerationRequest& request,
                                           const v1::GenerateRequest& proto, TimePoint start,
                                           const std::function<void(const std::string&)>& on_text,
                                           const std::atomic<bool>& cancelled,
                                           bool* never_sent) const;

  const std::string address_, state_dir_, api_key_;
  rpc::Channel channel_;
};

// The gateway to talk to: `flag` if given, else the one of the cluster that runs here, else the
// setting gateway.grpc_listen if it was set; FAILED_PRECONDITION when there is none,
// INVALID_ARGUMENT when `flag` is no address or names an unknown host, or when api_key_file or
// api_ca_file cannot be read.
absl::StatusOr<std::unique_ptr<GatewayClient>> FindGateway(const Context& context,
                                                           const std::string& flag);

// The key in the file that api_key_file names; empty without one. INVALID_ARGUMENT when it holds
// none.
absl::StatusOr<std::string> ReadApiKey(const std::string& path);

// The certificates of the authorities that api_ca_file names, in PEM; empty without one.
absl::StatusOr<std::string> ReadApiAuthorities(const std::string& path);

}  // namespace conclave::cli
