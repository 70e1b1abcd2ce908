#include "services/cli/gateway_client.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "conclave/v1/inference.grpc.pb.h"
#include "services/cli/cluster_state.h"
#include "services/cli/rpc_words.h"
#include "services/cli/table.h"
#include "shared/base/address.h"
#include "shared/base/clock.h"
#include "shared/base/json_file.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"
#include "shared/base/utf8.h"
#include "shared/rpc/status.h"

namespace conclave::cli {
namespace {

constexpr Duration kCancelPoll = std::chrono::milliseconds(50);
constexpr int kMostResends = 3;

v1::GenerateRequest ToProto(const GenerationRequest& request) {
  v1::GenerateRequest proto;
  if (request.chat.empty() && !request.ids.empty()) {
    proto.mutable_tokens()->mutable_ids()->Add(request.ids.begin(), request.ids.end());
  } else if (request.chat.empty()) {
    proto.set_text(request.text);
  } else {
    for (const ChatTurn& turn : request.chat) {
      v1::ChatMessage* message = proto.mutable_chat()->add_messages();
      message->set_role(turn.role);
      message->set_content(turn.content);
    }
  }
  const Parameters& from = request.parameters;
  v1::SamplingParameters& to = *proto.mutable_sampling();
  if (from.temperature) to.set_temperature(static_cast<float>(*from.temperature));
  if (from.top_p) to.set_top_p(static_cast<float>(*from.top_p));
  if (from.top_k) to.set_top_k(*from.top_k);
  if (from.min_p) to.set_min_p(static_cast<float>(*from.min_p));
  if (from.repetition_penalty) {
    to.set_repetition_penalty(static_cast<float>(*from.repetition_penalty));
  }
  if (from.presence_penalty) to.set_presence_penalty(static_cast<float>(*from.presence_penalty));
  if (from.frequency_penalty) to.set_frequency_penalty(static_cast<float>(*from.frequency_penalty));
  if (from.seed) to.set_seed(*from.seed);
  if (from.max_tokens) to.set_max_tokens(*from.max_tokens);
  if (from.min_tokens) to.set_min_tokens(*from.min_tokens);
  for (const std::string& stop : from.stop) to.add_stop(stop);
  to.set_ignore_eos(from.ignore_eos);
  if (from.pace) to.set_pace(*from.pace);
  // Who asks here wants to see the model at work: a digest that came from a cache would prove
  // nothing, and a benchmark would measure it.
  proto.set_cache(v1::CACHE_MODE_OFF);
  return proto;
}

// What does not come from the command line: standard input, a chat's line.
absl::Status CheckText(const GenerationRequest& request) {
  const auto check = [](const std::string& text) -> absl::Status {
    const auto at = FirstInvalidUtf8(text);
    if (!at) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt is not UTF-8: byte ", *at, " is 0x",
                     absl::Hex(static_cast<uint8_t>(text[*at]), absl::kZeroPad2),
                     "; convert it first, such as with iconv -t UTF-8"));
  };
  RETURN_IF_ERROR(check(request.text));
  for (const ChatTurn& turn : request.chat) RETURN_IF_ERROR(check(turn.content));
  return absl::OkStatus();
}

const char* ReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    default:
      return "unknown";
  }
}

// Cancels a call when a flag is set; a call that waits for its next message cannot look itself.
class CancelWatch {
 public:
  CancelWatch(grpc::ClientContext& context, const std::atomic<bool>& cancelled)
      : thread_([this, &context, &cancelled] {
          SetThreadName("cancel-watch");
          MutexLock lock(mutex_);
          while (!done_) {
            if (cancelled.load()) {
              context.TryCancel();
              return;
            }
            changed_.WaitFor(mutex_, kCancelPoll);
          }
        }) {}
  ~CancelWatch() {
    {
      MutexLock lock(mutex_);
      done_ = true;
    }
    changed_.NotifyAll();
    thread_.join();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool done_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// A name that nobody knows is a wrong argument.
absl::Status CheckHost(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (code == 0) {
    freeaddrinfo(found);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--gateway: host \"", host, "\" is not known (", gai_strerror(code), ")"));
}

absl::StatusOr<std::string> AddressOf(const Context& context, const std::string& flag) {
  if (!flag.empty()) {
    const auto address = ParseAddress(flag);
    if (!address.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--gateway: ", std::string(address.status().message())));
    }
    RETURN_IF_ERROR(CheckHost(address->host));
    return flag;
  }
  const auto running = ReadRunningCluster(context.state_dir);
  if (running.ok()) return running->grpc_address;
  for (const Settings::Row& row : context.rows) {
    if (row.key == "gateway.grpc_listen" && row.source != "default") return row.value;
  }
  return absl::FailedPreconditionError(absl::StrCat(std::string(running.status().message()),
                                                    ", or name a gateway: --gateway HOST:PORT"));
}

}  // namespace

GatewayClient::GatewayClient(const std::string& address, const std::string& state_dir,
                             std::string api_key, std::shared_ptr<const rpc::TlsCredentials> tls)
    : address_(address),
      state_dir_(state_dir),
      api_key_(std::move(api_key)),
      channel_(rpc::ChannelOptions{
          .address = address, .secret = {}, .tls = std::move(tls), .resend_unseen = true}) {}

absl::StatusOr<GenerationResult> GatewayClient::Generate(
    const GenerationRequest& request, const std::function<void(const std::string&)>& on_text,
    const std::atomic<bool>& cancelled) const {
  RETURN_IF_ERROR(CheckText(request));
  const v1::GenerateRequest proto = ToProto(request);
  const TimePoint start = std::chrono::steady_clock::now();
  for (int left = kMostResends;; --left) {
    bool never_sent = false;
    auto result = Attempt(request, proto, start, on_text, cancelled, &never_sent);
    if (!never_sent || left == 0) return result;
  }
}

absl::StatusOr<GenerationResult> GatewayClient::Attempt(
    const GenerationRequest& request, const v1::GenerateRequest& proto, TimePoint start,
    const std::function<void(const std::string&)>& on_text, const std::atomic<bool>& cancelled,
    bool* never_sent) const {
  grpc::ClientContext context;
  std::chrono::milliseconds left = request.timeout;
  if (left.count() > 0) {
    const auto spent = std::chrono::steady_clock::now() - start;
    left -= std::chrono::duration_cast<std::chrono::milliseconds>(spent);
    left = std::max(left, std::chrono::milliseconds(1));
  }
  channel_.Prepare(&context, left);
  if (!api_key_.empty()) context.AddMetadata("authorization", "Bearer " + api_key_);
  GenerationResult result;
  bool heard = false;
  const auto stub = v1::InferenceService::NewStub(channel_.grpc());
  const auto stream = stub->Generate(&context, proto);
  grpc::Status status;
  {
    const CancelWatch watch(context, cancelled);
    v1::GenerateEvent event;
    while (stream->Read(&event)) {
      heard = true;
      switch (event.event_case()) {
        case v1::GenerateEvent::kStarted:
          result.request_id = event.started().request_id();
          result.model = event.started().model();
          result.fingerprint = event.started().fingerprint();
          result.seed = event.started().seed();
          result.prompt_ids.assign(event.started().prompt_ids().begin(),
                                   event.started().prompt_ids().end());
          break;
        case v1::GenerateEvent::kTokens:
          if (event.tokens().ids_size() > 0) {
            result.arrivals.push_back(
                {std::chrono::steady_clock::now() - start, event.tokens().ids_size(), UnixMs()});
          }
          result.ids.insert(result.ids.end(), event.tokens().ids().begin(),
                            event.tokens().ids().end());
          result.text += event.tokens().text();
          if (!event.tokens().text().empty()) on_text(event.tokens().text());
          break;
        case v1::GenerateEvent::kFinished:
          result.finish_reason = ReasonName(event.finished().reason());
          result.ids.assign(event.finished().ids().begin(), event.finished().ids().end());
          result.text += event.finished().text();
          if (!event.finished().text().empty()) on_text(event.finished().text());
          break;
        case v1::GenerateEvent::kUsage:
          result.cached_tokens = event.usage().cached_tokens();
          break;
        case v1::GenerateEvent::EVENT_NOT_SET:
          break;
      }
    }
    status = stream->Finish();
  }
  result.total = std::chrono::steady_clock::now() - start;
  if (cancelled.load()) {
    result.finish_reason = "cancelled";
    return result;
  }
  *never_sent = !heard && rpc::NeverSent(context, status);
  if (!status.ok()) return InWords(rpc::FromGrpc(status), "gateway", address_, state_dir_);
  return result;
}

absl::StatusOr<std::unique_ptr<GatewayClient>> FindGateway(const Context& context,
                                                           const std::string& flag) {
  ASSIGN_OR_RETURN(const std::string address, AddressOf(context, flag));
  ASSIGN_OR_RETURN(std::string key, ReadApiKey(context.options.common.api_key_file));
  if (const auto running = ReadRunningCluster(context.state_dir);
      running.ok() && running->api_tls && running->grpc_address == address &&
      context.options.common.api_ca_file.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the gateway at ", address,
        " speaks TLS: name the authorities of its certificate with --api-ca-file FILE, "
        "or --api-ca-file system for those of this system"));
  }
  ASSIGN_OR_RETURN(const std::string authorities,
                   ReadApiAuthorities(context.options.common.api_ca_file));
  std::shared_ptr<rpc::TlsCredentials> tls;
  if (!authorities.empty()) {
    tls::Certificates trusted;
    trusted.ca_pem = authorities;
    ASSIGN_OR_RETURN(tls, rpc::TlsCredentials::Make(trusted));
  }
  return std::make_unique<GatewayClient>(address, context.state_dir, std::move(key),
                                         std::move(tls));
}

absl::StatusOr<std::string> ReadApiKey(const std::string& path) {
  if (path.empty()) return "";
  constexpr uint64_t kMost = 4096;
  const absl::StatusOr<std::string> text = ReadRegularFile(path, kMost);
  if (!text.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("api_key_file: ", std::string(text.status().message())));
  }
  const std::string key(absl::StripAsciiWhitespace(*text));
  const bool printable = std::all_of(key.begin(), key.end(), absl::ascii_isgraph);
  if (key.empty() || !printable) {
    return absl::InvalidArgumentError(
        absl::StrCat("api_key_file: ", path, " holds no API key; conclave key create prints one"));
  }
  return key;
}

absl::StatusOr<std::string> ReadApiAuthorities(const std::string& path) {
  if (path.empty()) return "";
  constexpr char kSystem[] = "/etc/ssl/certs/ca-certificates.crt";
  ASSIGN_OR_RETURN(
      tls::Certificates certificates,
      tls::ReadCertificates({.prefix = "api", .ca = path == "system" ? kSystem : path}));
  return std::move(certificates.ca_pem);
}

}  // namespace conclave::cli
