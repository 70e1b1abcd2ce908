#include "services/cli/gateway_bench/kept_answer.h"

#include <future>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

constexpr std::chrono::seconds kPatience{60};
constexpr int kMostTries = 10;
constexpr int32_t kAnswerTokens = 16;
constexpr int32_t kGrpcConnections = 4;
constexpr int32_t kHttpConnections = 64;
constexpr char kChatPath[] = "/v1/chat/completions";

// As the gateway answers when it need not compute.
absl::StatusOr<EchoAnswers> KeepAnswers(const BenchCluster& cluster) {
  EchoAnswers answers;
  Connections connections(cluster.grpc_address(), 1);
  CompleteSender complete(&connections, cluster.key(0));
  const v1::GenerateRequest request = Question(0, kAnswerTokens);
  const grpc::ByteBuffer bytes = BufferOf(request);
  bool hit = false;
  for (int i = 0; i < kMostTries && !hit; ++i) {
    RETURN_IF_ERROR(Await([&](SentDone done) {
      complete.Send(
          bytes, kPatience, [&](const grpc::ByteBuffer& got) { answers.complete = BytesOf(got); },
          std::move(done));
    }));
    v1::CompleteResponse response;
    hit = response.ParseFromString(answers.complete) &&
          response.started().cache() == v1::CACHE_STATUS_HIT;
  }
  if (!hit) return absl::InternalError("the gateway does not answer from its cache");
  SessionSender session(connections.Next(), cluster.key(0), /*gather=*/false);
  session.KeepMessages();
  RETURN_IF_ERROR(Await([&](SentDone done) { session.Send(request, std::move(done)); }));
  for (const grpc::ByteBuffer& message : session.TakeMessages()) {
    answers.session.push_back(BytesOf(message));
  }
  HttpSender http(cluster.http_address(), 1);
  for (const bool stream : {false, true}) {
    const auto asked = std::make_shared<const std::string>(
        HttpRequest(kChatPath, cluster.key(0), HttpQuestion(0, kAnswerTokens, stream)));
    std::string& body = stream ? answers.sse_body : answers.http_body;
    for (int i = 0; i < 2; ++i) {  // the first may have had to compute it
      RETURN_IF_ERROR(Await([&](SentDone done) {
        http.Send(
            asked, [&](std::string got) { body = std::move(got); }, std::move(done));
      }));
    }
  }
  return answers;
}

}  // namespace

v1::GenerateRequest Question(int32_t number, int32_t max_tokens) {
  v1::GenerateRequest request;
  v1::ChatMessage* const message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content(absl::StrCat("Tell me story ", number, "."));
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_max_tokens(max_tokens);
  return request;
}

std::string HttpQuestion(int32_t number, int32_t max_tokens, bool stream) {
  nlohmann::json body = {
      {"messages", {{{"role", "user"}, {"content", absl::StrCat("Tell me story ", number, ".")}}}},
      {"temperature", 0},
      {"max_tokens", max_tokens}};
  if (stream) body["stream"] = true;
  return body.dump();
}

absl::Status Await(const Sender& sender) {
  auto ended = std::make_shared<std::promise<absl::Status>>();
  auto future = ended->get_future();
  sender([ended](const absl::Status& status) { ended->set_value(status); });
  if (future.wait_for(kPatience) != std::future_status::ready) {
    return absl::DeadlineExceededError("the gateway does not answer a request");
  }
  return future.get();
}

absl::StatusOr<KeptRig> KeptRig::Start(const RowContext& context) {
  context.progress("starts a cluster and an echo");
  KeptRig rig;
  ASSIGN_OR_RETURN(rig.cluster, BenchCluster::Start({.model = context.model,
                                                     .tenants = {{.name = "bench"}},
                                                     .flags = {"--workers", "0"},
                                                     .interrupted = context.interrupted}));
  ASSIGN_OR_RETURN(const EchoAnswers answers, KeepAnswers(*rig.cluster));
  ASSIGN_OR_RETURN(rig.echo, Echo::Start(answers, rig.cluster->folder()));
  rig.key = rig.cluster->key(0);
  rig.session_messages = answers.session.size();
  rig.servers[0] = {"echo", rig.echo->grpc_address(), rig.echo->http_address(), rig.echo->pid()};
  rig.servers[1] = {"gateway", rig.cluster->grpc_address(), rig.cluster->http_address(),
                    rig.cluster->gateway_pid()};
  rig.peer = {"gRPC's own echo", rig.echo->peer_address(), "", rig.echo->pid()};
  return rig;
}

KeptClient::KeptClient(const KeptRig& rig, const KeptRig::Server& server, Shape shape,
                       Serving serving)
    : shape_(shape),
      request_(Question(0, kAnswerTokens)),
      http_request_(std::make_shared<const std::string>(
          HttpRequest(kChatPath, rig.key, HttpQuestion(0, kAnswerTokens, shape == Shape::kSse)))) {
  if (shape == Shape::kHttp || shape == Shape::kSse) {
    http_ = std::make_unique<HttpSender>(server.http_address, kHttpConnections, serving);
    return;
  }
  if (shape == Shape::kUnary) {
    unary_ = std::make_unique<H2Sender>(
        server.grpc_address, serving == Serving::kPolled ? 1 : kGrpcConnections,
        "/conclave.v1.InferenceService/Complete", rig.key, request_.SerializeAsString(), serving);
    return;
  }
  connections_ = std::make_unique<Connections>(server.grpc_address, 1);
  session_ =
      std::make_unique<SessionSender>(connections_->Next(), rig.key, shape == Shape::kGathered);
}

void KeptClient::Poll() {
  if (unary_ != nullptr) unary_->Poll();
  if (http_ != nullptr) http_->Poll();
}

Sender KeptClient::sender() {
  switch (shape_) {
    case Shape::kUnary:
      return [this](SentDone done) { unary_->Send(std::move(done)); };
    case Shape::kSession:
    case Shape::kGathered:
      return [this](SentDone done) { session_->Send(request_, std::move(done)); };
    case Shape::kHttp:
    case Shape::kSse:
      break;
  }
  return [this](SentDone done) { http_->Send(http_request_, nullptr, std::move(done)); };
}

}  // namespace conclave::cli
