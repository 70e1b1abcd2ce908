#include "services/cli/machine_bench/round_trip.h"

#include <unistd.h>

#include <chrono>
#include <cmath>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "services/cli/machine_bench/shared_memory_echo.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

constexpr size_t kMessageBytes = 256;
constexpr int kWarmUps = 100;
// Beyond what is measured: an echo that stalls ends with an error.
constexpr double kPatienceSeconds = 10;

class Echo final : public grpc::ServerGenericBidiReactor {
 public:
  Echo() { StartRead(&message_); }
  void OnReadDone(bool ok) override { ok ? StartWrite(&message_) : Finish(grpc::Status::OK); }
  void OnWriteDone(bool ok) override { ok ? StartRead(&message_) : Finish(grpc::Status::OK); }
  void OnDone() override { delete this; }

 private:
  grpc::ByteBuffer message_;
};

class EchoService final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new Echo();
  }
};

// A stream of which each operation is waited for.
class EchoStream {
 public:
  EchoStream(const std::shared_ptr<grpc::Channel>& channel, double seconds) : stub_(channel) {
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::milliseconds(std::llround(1e3 * seconds)));
    call_ = stub_.PrepareCall(&context_, "/echo", &queue_);
    call_->StartCall(nullptr);
    open_ = Wait();
  }
  ~EchoStream() {
    context_.TryCancel();
    grpc::Status status;
    call_->Finish(&status, nullptr);
    Wait();
    queue_.Shutdown();
    while (Wait()) {
    }
  }

  bool RoundTrip() {
    if (!open_) return false;
    call_->Write(message_, nullptr);
    if (!Wait()) return false;
    grpc::ByteBuffer answer;
    call_->Read(&answer, nullptr);
    return Wait() && answer.Length() == message_.Length();
  }

 private:
  bool Wait() {
    void* tag;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  const grpc::Slice slice_{std::string(kMessageBytes, 'x')};
  const grpc::ByteBuffer message_{&slice_, 1};
  bool open_ = false;
};

// Seconds of each call of `round_trip` in so many seconds, after some to warm up.
template <typename RoundTrip>
absl::StatusOr<std::vector<double>> TimeOf(const std::string& way, double seconds,
                                           RoundTrip&& round_trip) {
  const absl::Status ended = absl::UnavailableError(absl::StrCat("the echo at ", way, " ended"));
  for (int i = 0; i < kWarmUps; ++i) {
    if (!round_trip()) return ended;
  }
  std::vector<double> times;
  const auto end = steady_clock::now() + std::chrono::duration<double>(seconds);
  auto begin = steady_clock::now();
  while (begin < end) {
    if (!round_trip()) return ended;
    const auto now = steady_clock::now();
    times.push_back(std::chrono::duration<double>(now - begin).count());
    begin = now;
  }
  return times;
}

absl::StatusOr<std::vector<double>> MeasureGrpc(bool unix_socket, double seconds) {
  EchoService service;
  grpc::ServerBuilder builder;
  const std::string name = absl::StrCat("unix-abstract:conclave-bench-", getpid());
  int port = 0;
  builder.RegisterCallbackGenericService(&service);
  builder.AddListeningPort(unix_socket ? name : "127.0.0.1:0", grpc::InsecureServerCredentials(),
                           &port);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return absl::UnavailableError("no port of this machine is free");
  const std::string address = unix_socket ? name : absl::StrCat("127.0.0.1:", port);
  absl::StatusOr<std::vector<double>> times;
  {
    EchoStream stream(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()),
                      seconds + kPatienceSeconds);
    times = TimeOf(address, seconds, [&] { return stream.RoundTrip(); });
  }
  server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
  return times;
}

}  // namespace

absl::StatusOr<std::vector<double>> MeasureRoundTrips(RoundTripWay way, double seconds) {
  if (way != RoundTripWay::kSharedMemory) {
    return MeasureGrpc(way == RoundTripWay::kUnixSocket, seconds);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<SharedMemoryEcho> echo, SharedMemoryEcho::Start());
  return TimeOf("shared memory", seconds, [&] { return echo->RoundTrip(kMessageBytes); });
}

}  // namespace conclave::cli
