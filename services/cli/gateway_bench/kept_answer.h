// A gateway that answers one request from its cache, beside an echo with the same answers, and a
// client that asks either in one of four ways.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "conclave/v1/inference.pb.h"
#include "services/cli/bench_cluster/bench_cluster.h"
#include "services/cli/gateway_bench/echo.h"
#include "services/cli/gateway_bench/h2_sender.h"
#include "services/cli/gateway_bench/http_sender.h"
#include "services/cli/gateway_bench/row.h"
#include "services/cli/gateway_bench/senders.h"

namespace conclave::cli {

// A greedy question with an answer of `max_tokens` tokens at most. `number` makes it another one.
v1::GenerateRequest Question(int32_t number, int32_t max_tokens);
// The same over HTTP: the body of POST /v1/chat/completions.
std::string HttpQuestion(int32_t number, int32_t max_tokens, bool stream);

// Waits for one request; DEADLINE_EXCEEDED after a minute.
absl::Status Await(const Sender& sender);

// kGathered: a Session in which what waits shares a message.
enum class Shape { kUnary, kSession, kGathered, kHttp, kSse };

struct KeptRig {
  struct Server {
    const char* name;
    std::string grpc_address, http_address;
    int64_t pid = 0;
  };
  std::unique_ptr<BenchCluster> cluster;
  std::unique_ptr<Echo> echo;
  std::string key;
  size_t session_messages = 0;  // of an answer
  Server servers[2];            // echo, gateway
  Server peer;                  // gRPC's own server, in the echo's process; no HTTP

  // INTERNAL when an answer does not come from the cache after several tries.
  static absl::StatusOr<KeptRig> Start(const RowContext& context);
};

// Asks one server for the kept answer. Its sender is valid as long as it is.
class KeptClient {
 public:
  // Sessions cannot be polled.
  KeptClient(const KeptRig& rig, const KeptRig::Server& server, Shape shape,
             Serving serving = Serving::kOwnThread);
  Sender sender();
  void Poll();

 private:
  const Shape shape_;
  const v1::GenerateRequest request_;
  const std::shared_ptr<const std::string> http_request_;
  std::unique_ptr<Connections> connections_;
  std::unique_ptr<H2Sender> unary_;
  std::unique_ptr<SessionSender> session_;
  std::unique_ptr<HttpSender> http_;
};

}  // namespace conclave::cli
