#include "shared/rpc/channel.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "shared/rpc/server.h"
#include "tests/rpc/probe_service.h"

namespace conclave::rpc {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

std::unique_ptr<Server> StartServer(grpc::Service* service,
                                    const std::string& listen = "127.0.0.1:0") {
  grpc::Service* const services[] = {service};
  auto server = Server::Start({.name = "probe", .listen = listen}, services);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

grpc::Status Call(const Channel& channel, const std::string& text = "hello",
                  bool wait_for_ready = false, milliseconds timeout = milliseconds(5000)) {
  grpc::ClientContext context;
  channel.Prepare(&context, timeout);
  context.set_wait_for_ready(wait_for_ready);
  return CallTokenize(channel.grpc(), &context, text);
}

TEST(ChannelTest, AnythingUpToTheLimitPassesBothWays) {
  ProbeService service;
  const auto server = StartServer(&service);
  const Channel channel({.address = server->address()});
  EXPECT_TRUE(Call(channel, std::string(kMaxMessageBytes - 64, 'x')).ok());
  grpc::ClientContext context;
  v1::DetokenizeRequest request;
  request.add_ids(static_cast<int32_t>(kMaxMessageBytes - 64));
  v1::DetokenizeResponse response;
  EXPECT_TRUE(
      v1::InferenceService::NewStub(channel.grpc())->Detokenize(&context, request, &response).ok());
}

TEST(ChannelTest, ALargerMessageIsRefusedAndTheConnectionLives) {
  ProbeService service;
  const auto server = StartServer(&service);
  const Channel channel({.address = server->address()});
  EXPECT_EQ(Call(channel, std::string(16 << 20, 'x')).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Call(channel).ok());

  // From a client without our limits it is the server that refuses.
  grpc::ChannelArguments arguments;
  arguments.SetMaxSendMessageSize(-1);
  const auto other =
      grpc::CreateCustomChannel(server->address(), grpc::InsecureChannelCredentials(), arguments);
  grpc::ClientContext context;
  EXPECT_EQ(CallTokenize(other, &context, std::string(16 << 20, 'x')).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST(ChannelTest, ACallToNobodyFailsAtOnce) {
  ProbeService service;
  auto server = StartServer(&service);
  const std::string address = server->address();
  server.reset();
  const Channel channel({.address = address});
  const auto start = Clock::now();
  EXPECT_EQ(Call(channel).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_LT(Clock::now() - start, milliseconds(900));
}

TEST(ChannelTest, ARestartedServerIsFoundWithin1500Ms) {
  ProbeService service;
  auto server = StartServer(&service);
  const std::string address = server->address();
  const Channel channel({.address = address});
  ASSERT_TRUE(Call(channel).ok());
  server.reset();
  // Long enough for the back-off to reach its greatest value.
  EXPECT_FALSE(Call(channel, "hello", true, milliseconds(2500)).ok());
  server = StartServer(&service, address);
  ASSERT_NE(server, nullptr);
  const auto start = Clock::now();
  const grpc::Status status = Call(channel, "hello", true, milliseconds(5000));
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_LT(Clock::now() - start, milliseconds(1500));
}

// Accepts connections into its backlog and never says a word, as a stopped process does.
class SilentListener {
 public:
  SilentListener() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(fd_, 16), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &bytes), 0);
    port_ = ntohs(address.sin_port);
  }
  ~SilentListener() { close(fd_); }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  int fd_;
  int port_ = 0;
};

TEST(ChannelTest, ConnectingToASilentHostEndsWithinTheConnectTimeout) {
  const SilentListener listener;
  const Channel channel({.address = listener.address()});
  const auto start = Clock::now();
  EXPECT_EQ(Call(channel, "hello", false, milliseconds(10'000)).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  const auto took = Clock::now() - start;
  EXPECT_GT(took, kConnectTimeout / 2);
  EXPECT_LT(took, kConnectTimeout * 3);
}

TEST(ChannelTest, ChannelsHaveAConnectionOfTheirOwnIfTheyWant) {
  ProbeService service;
  const auto server = StartServer(&service);
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Call(Channel({.address = server->address(), .own_connection = true})).ok());
  }
  EXPECT_EQ(service.num_peers(), 3u);
}

TEST(ChannelTest, ChannelsShareAConnectionIfTheyMay) {
  ProbeService service;
  const auto server = StartServer(&service);
  const ChannelOptions options{.address = server->address(), .own_connection = false};
  const Channel a(options), b(options);
  EXPECT_TRUE(Call(a).ok());
  EXPECT_TRUE(Call(b).ok());
  EXPECT_EQ(service.num_peers(), 1u);
}

TEST(ChannelTest, NothingIsRetriedBehindTheCallersBack) {
  ProbeService service;
  const auto server = StartServer(&service);
  const Channel channel({.address = server->address()});
  EXPECT_EQ(Call(channel, "fail").error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(service.calls(), 1);
}

TEST(ChannelTest, TheEnvironmentsProxyIsNotUsed) {
  const SilentListener proxy;
  ProbeService service;
  const auto server = StartServer(&service);
  setenv("http_proxy", ("http://" + proxy.address()).c_str(), 1);
  const grpc::Status status = Call(Channel({.address = server->address()}));
  unsetenv("http_proxy");
  EXPECT_TRUE(status.ok()) << status.error_message();
}

TEST(ChannelTest, ServersAcceptPingsAsOftenAsClientsSendThem) {
  static_assert(kPingIntervalAccepted < kKeepaliveTime);
  const grpc::ChannelArguments made = MakeChannelArguments({.address = "127.0.0.1:1"});
  const grpc_channel_args arguments = made.c_channel_args();
  int keepalive_ms = 0;
  for (size_t i = 0; i < arguments.num_args; ++i) {
    if (std::string_view(arguments.args[i].key) == GRPC_ARG_KEEPALIVE_TIME_MS) {
      keepalive_ms = arguments.args[i].value.integer;
    }
  }
  EXPECT_EQ(keepalive_ms, kKeepaliveTime.count());
}

}  // namespace
}  // namespace conclave::rpc
