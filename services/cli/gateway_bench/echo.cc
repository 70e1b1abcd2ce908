#include "services/cli/gateway_bench/echo.h"

#include <unistd.h>

#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "services/cli/gateway_bench/queued_writer.h"
#include "services/cli/gateway_bench/senders.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"
#include "shared/h2/server.h"
#include "shared/http/server.h"
#include "shared/rpc/server.h"
#include "shared/rpc/status.h"

namespace conclave::cli {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(10);
constexpr auto kStartPatience = std::chrono::seconds(30);

std::string AddressesFile(const std::string& answers) { return answers + ".addresses"; }

class CompleteEcho final : public h2::ServerCall {
 public:
  explicit CompleteEcho(const std::string* answer) : answer_(answer) {}
  void OnMessage(std::string_view) override {
    WriteBytes(*answer_);
    Finish(absl::OkStatus());
  }
  void OnHalfClose() override { Finish(absl::OkStatus()); }
  void OnCancel() override {}

 private:
  const std::string* const answer_;
};

// Requests in a SessionRequest, or an error.
absl::StatusOr<int> RequestsIn(const void* bytes, size_t size, bool* gather) {
  v1::SessionRequest message;
  if (!message.ParseFromArray(bytes, static_cast<int>(size))) {
    return absl::InvalidArgumentError("no SessionRequest");
  }
  *gather = message.gather();
  return message.more_size() + 1;
}

class SessionEcho final : public h2::ServerCall {
 public:
  explicit SessionEcho(const std::vector<v1::SessionEvent>* answer) : answer_(answer) {}
  void OnMessage(std::string_view bytes) override {
    bool gather = false;
    const absl::StatusOr<int> requests = RequestsIn(bytes.data(), bytes.size(), &gather);
    if (!requests.ok()) {
      Finish(requests.status());
      return;
    }
    if (gather) GatherAs(v1::SessionEvent::kMoreFieldNumber);
    for (int i = 0; i < *requests; ++i) {
      for (const v1::SessionEvent& event : *answer_) Write(event);
    }
  }
  void OnHalfClose() override { Finish(absl::OkStatus()); }
  void OnCancel() override {}

 private:
  const std::vector<v1::SessionEvent>* const answer_;
};

h2::Service EchoService(const std::string* complete, const std::vector<v1::SessionEvent>* session) {
  return {
      .name = v1::InferenceService::service_full_name(),
      .methods = {
          {"Complete",
           [complete](const h2::CallStart&) { return std::make_shared<CompleteEcho>(complete); }},
          {"Session",
           [session](const h2::CallStart&) { return std::make_shared<SessionEcho>(session); }}}};
}

// The same by gRPC's own server.
class CompletePeer final : public grpc::ServerUnaryReactor {
 public:
  CompletePeer() { Finish(grpc::Status::OK); }
  void OnDone() override { delete this; }
};

class SessionPeer final
    : public QueuedWriter<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  explicit SessionPeer(const std::vector<v1::SessionEvent>* answer) : answer_(answer) {}
  void Begin() { StartRead(&request_); }
  void OnReadDone(bool ok) override {
    if (!ok) {
      End(grpc::Status::OK);
      return;
    }
    bool gather = false;
    const std::string bytes = BytesOf(request_);
    const absl::StatusOr<int> requests = RequestsIn(bytes.data(), bytes.size(), &gather);
    if (!requests.ok()) {
      End(rpc::ToGrpc(requests.status()));
      return;
    }
    v1::SessionEvent gathered;
    for (int i = 0; i < *requests; ++i) {
      for (const v1::SessionEvent& event : *answer_) {
        if (gather) {
          *gathered.add_more() = event;
        } else {
          Push(BufferOf(event));
        }
      }
    }
    if (gather) Push(BufferOf(gathered));
    request_.Clear();
    StartRead(&request_);
  }
  void OnCancel() override { Abort(grpc::Status::CANCELLED); }

 private:
  const std::vector<v1::SessionEvent>* const answer_;
  grpc::ByteBuffer request_;
};

using PeerBase = v1::InferenceService::WithRawCallbackMethod_Complete<
    v1::InferenceService::WithRawCallbackMethod_Session<v1::InferenceService::Service>>;

class PeerService final : public PeerBase {
 public:
  PeerService(const std::string& complete, const std::vector<v1::SessionEvent>* session)
      : complete_(BufferOf(complete)), session_(session) {}

  using PeerBase::Complete;
  using PeerBase::Session;

  grpc::ServerUnaryReactor* Complete(grpc::CallbackServerContext*, const grpc::ByteBuffer*,
                                     grpc::ByteBuffer* response) override {
    *response = complete_;
    return new CompletePeer();
  }
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Session(
      grpc::CallbackServerContext*) override {
    auto call = std::make_shared<SessionPeer>(session_);
    call->KeepAlive();
    call->Begin();
    return call.get();
  }

 private:
  const grpc::ByteBuffer complete_;
  const std::vector<v1::SessionEvent>* const session_;
};

// On the I/O thread, as the gateway answers from its cache.
std::vector<http::Server::Route> EchoRoutes(const std::string& http_body,
                                            const std::string& sse_body) {
  const auto answer = [http_body, sse_body](const std::shared_ptr<http::Exchange>& exchange) {
    if (exchange->request().body.find("\"stream\":true") == std::string::npos) {
      exchange->Respond({.body = http_body});
    } else {
      exchange->BeginStream({});
      exchange->Write(sse_body);
      exchange->EndStream();
    }
    return http::Server::Rest();
  };
  return {{"POST", "/v1/chat/completions", answer, answer}};
}

// Bytes as text that JSON can hold.
std::string Escaped(const std::string& bytes) { return absl::Base64Escape(bytes); }

absl::StatusOr<std::string> Unescaped(const nlohmann::json& text) {
  std::string bytes;
  if (text.is_string() && absl::Base64Unescape(text.get<std::string>(), &bytes)) return bytes;
  return absl::InvalidArgumentError("the echo's answers are damaged");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Echo>> Echo::Start(const EchoAnswers& answers,
                                                  const std::string& folder) {
  nlohmann::json session = nlohmann::json::array();
  for (const std::string& message : answers.session) session.push_back(Escaped(message));
  const std::string path = folder + "/echo.json";
  RETURN_IF_ERROR(WriteJsonFile(path, {{"complete", Escaped(answers.complete)},
                                       {"session", session},
                                       {"http_body", Escaped(answers.http_body)},
                                       {"sse_body", Escaped(answers.sse_body)}}));
  unlink(AddressesFile(path).c_str());
  auto echo = std::make_unique<Echo>();
  ASSIGN_OR_RETURN(echo->child_, Child::Start({"bench", "gateway", "--echo-answers", path},
                                              folder + "/echo.log"));
  const auto deadline = std::chrono::steady_clock::now() + kStartPatience;
  for (;;) {
    const auto addresses = ReadJsonFile(AddressesFile(path));
    if (addresses.ok()) {
      echo->grpc_address_ = addresses->value("grpc", "");
      echo->http_address_ = addresses->value("http", "");
      echo->peer_address_ = addresses->value("peer", "");
      return echo;
    }
    if (!echo->child_->running() || std::chrono::steady_clock::now() > deadline) {
      return absl::UnavailableError(
          absl::StrCat("the echo did not start: ", echo->child_->WhyEnded().message()));
    }
    std::this_thread::sleep_for(kPoll);
  }
}

absl::Status ServeEcho(const std::string& answers, StopSignals& signals) {
  ASSIGN_OR_RETURN(const nlohmann::json file, ReadJsonFile(answers));
  ASSIGN_OR_RETURN(const std::string complete, Unescaped(file.value("complete", "")));
  ASSIGN_OR_RETURN(const std::string http_body, Unescaped(file.value("http_body", "")));
  ASSIGN_OR_RETURN(const std::string sse_body, Unescaped(file.value("sse_body", "")));
  std::vector<v1::SessionEvent> session;
  for (const nlohmann::json& message : file.value("session", nlohmann::json::array())) {
    ASSIGN_OR_RETURN(const std::string bytes, Unescaped(message));
    session.emplace_back().ParseFromString(bytes);
  }
  ASSIGN_OR_RETURN(const auto grpc_server,
                   h2::Server::Start({.name = "echo", .listen = "127.0.0.1:0"},
                                     {EchoService(&complete, &session)}));
  PeerService peer(complete, &session);
  grpc::Service* const services[] = {&peer};
  ASSIGN_OR_RETURN(const auto peer_server,
                   rpc::Server::Start({.name = "peer", .listen = "127.0.0.1:0"}, services));
  ASSIGN_OR_RETURN(const auto http_server,
                   http::Server::Start({.listen = "127.0.0.1:0"}, EchoRoutes(http_body, sse_body)));
  RETURN_IF_ERROR(WriteJsonFile(AddressesFile(answers), {{"grpc", grpc_server->address()},
                                                         {"http", http_server->address()},
                                                         {"peer", peer_server->address()}}));
  while (!signals.WaitFor(std::chrono::seconds(60))) {
    // Whoever started it would have ended it.
    if (getppid() == 1) break;
  }
  return absl::OkStatus();
}

}  // namespace conclave::cli
