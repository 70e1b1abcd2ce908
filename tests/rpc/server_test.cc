#include "shared/rpc/server.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "shared/rpc/channel.h"
#include "tests/rpc/probe_service.h"

namespace conclave::rpc {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

const ClusterSecret kSecret("0123456789abcdef");

std::unique_ptr<Server> StartServer(grpc::Service* service, ServerOptions options = {}) {
  if (options.name.empty()) options.name = "probe";
  if (options.listen.empty()) options.listen = "127.0.0.1:0";
  grpc::Service* const services[] = {service};
  auto server = Server::Start(options, services);
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

absl::Status StartError(const std::string& listen, ClusterSecret secret = {}) {
  ProbeService service;
  grpc::Service* const services[] = {&service};
  return Server::Start({.name = "probe", .listen = listen, .secret = std::move(secret)}, services)
      .status();
}

grpc::Status Call(const std::string& address, const ClusterSecret& secret = {}) {
  const Channel channel({.address = address, .secret = secret});
  grpc::ClientContext context;
  channel.Prepare(&context, milliseconds(5000));
  return CallTokenize(channel.grpc(), &context, "hello");
}

// grpc.health.v1: HealthCheckRequest{1: service}, HealthCheckResponse{1: status}; 1 is SERVING, 2
// NOT_SERVING; minus the code on error.
int Health(const Channel& channel, const std::string& service) {
  std::string text;
  if (!service.empty()) text = std::string("\x0a") + static_cast<char>(service.size()) + service;
  grpc::Slice slice(text);
  grpc::ByteBuffer request(&slice, 1), response;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(5000));
  grpc::GenericStub stub(channel.grpc());
  std::promise<grpc::Status> done;
  stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                 [&](grpc::Status status) { done.set_value(status); });
  const grpc::Status status = done.get_future().get();
  if (!status.ok()) return -status.error_code();
  grpc::Slice answer;
  EXPECT_TRUE(response.DumpToSingleSlice(&answer).ok());
  return answer.size() == 2 ? answer.begin()[1] : 0;
}

TEST(ServerTest, TakesAFreePortAndSaysWhich) {
  ProbeService service;
  const auto server = StartServer(&service);
  EXPECT_GT(server->port(), 0);
  EXPECT_EQ(server->address(), "127.0.0.1:" + std::to_string(server->port()));
  EXPECT_TRUE(Call(server->address()).ok());
}

TEST(ServerTest, ListensOnAUnixSocket) {
  ProbeService service;
  const std::string path =
      ::testing::TempDir() + "/server_test_" + std::to_string(getpid()) + ".sock";
  const auto server = StartServer(&service, {.listen = "unix:" + path});
  EXPECT_EQ(server->port(), 0);
  EXPECT_EQ(server->address(), "unix:" + path);
  EXPECT_TRUE(Call(server->address()).ok());
}

TEST(ServerTest, APortInUseIsNamed) {
  ProbeService service;
  const auto server = StartServer(&service);
  const absl::Status error = StartError(server->address());
  EXPECT_EQ(error.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(error.message()),
              HasSubstr("probe cannot listen on " + server->address() + ": port " +
                        std::to_string(server->port()) + " is in use by another process"));
  EXPECT_THAT(std::string(error.message()), HasSubstr("--listen"));
}

TEST(ServerTest, BeyondLoopbackNeedsASecretOrInsecure) {
  EXPECT_EQ(StartError("0.0.0.0:0").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(StartError("0.0.0.0:0", kSecret).ok());
  ProbeService service;
  EXPECT_NE(StartServer(&service, {.listen = "0.0.0.0:0", .insecure = true}), nullptr);
}

TEST(ServerTest, OnlyHoldersOfTheSecretAreServed) {
  ProbeService service(kSecret);
  const auto server = StartServer(&service, {.secret = kSecret});
  EXPECT_TRUE(Call(server->address(), kSecret).ok());

  const grpc::Status none = Call(server->address());
  EXPECT_EQ(none.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(none.error_message(), HasSubstr("cluster_secret_file"));

  const grpc::Status other = Call(server->address(), ClusterSecret("fedcba9876543210"));
  EXPECT_EQ(other.error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_THAT(other.error_message(), HasSubstr("another cluster secret"));
}

TEST(ServerTest, AStreamWithoutTheSecretIsRefused) {
  ProbeService service(kSecret);
  const auto server = StartServer(&service, {.secret = kSecret});
  const Channel channel({.address = server->address()});
  grpc::ClientContext context;
  channel.Prepare(&context, milliseconds(5000));
  auto stream = v1::InferenceService::NewStub(channel.grpc())->Session(&context);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST(ServerTest, HealthIsNotServingUntilSaidAndNeedsNoSecret) {
  ProbeService service(kSecret);
  const auto server = StartServer(
      &service, {.secret = kSecret, .health_names = {v1::InferenceService::service_full_name()}});
  const Channel channel({.address = server->address()});
  EXPECT_EQ(Health(channel, ""), 2);
  EXPECT_EQ(Health(channel, "conclave.v1.InferenceService"), 2);
  server->SetServing(true);
  EXPECT_EQ(Health(channel, ""), 1);
  EXPECT_EQ(Health(channel, "conclave.v1.InferenceService"), 1);
  server->SetServing(false);
  EXPECT_EQ(Health(channel, ""), 2);
  EXPECT_EQ(Health(channel, "conclave.v1.InferenceService"), 2);
  EXPECT_EQ(Health(channel, "no.such.Service"), -grpc::StatusCode::NOT_FOUND);
}

TEST(ServerTest, ReflectionListsTheServices) {
  ProbeService service;
  const auto server = StartServer(&service);
  const Channel channel({.address = server->address()});
  grpc::GenericStub stub(channel.grpc());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(5000));
  grpc::CompletionQueue queue;
  const auto stream = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag;
  bool ok;
  stream->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::Slice slice(std::string("\x3a\x00", 2));  // ServerReflectionRequest{7: list_services ""}
  stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer answer;
  stream->Read(&answer, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::Slice text;
  ASSERT_TRUE(answer.DumpToSingleSlice(&text).ok());
  EXPECT_THAT(std::string(reinterpret_cast<const char*>(text.begin()), text.size()),
              HasSubstr("conclave.v1.InferenceService"));
  context.TryCancel();
  grpc::Status status;
  stream->Finish(&status, nullptr);
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
}

TEST(ServerTest, DrainLetsACallFinishWithinItsGrace) {
  ProbeService service;
  const auto server = StartServer(&service);
  const Channel channel({.address = server->address()});
  grpc::ClientContext context;
  channel.Prepare(&context, milliseconds(10'000));
  auto stream = v1::InferenceService::NewStub(channel.grpc())->Session(&context);
  stream->WaitForInitialMetadata();
  std::thread drain([&] { server->Drain(milliseconds(10'000)); });
  // New calls are refused while the old one goes on.
  grpc::Status refused;
  do {
    const Channel other({.address = server->address()});
    grpc::ClientContext other_context;
    other.Prepare(&other_context, milliseconds(5000));
    refused = CallTokenize(other.grpc(), &other_context, "hello");
    // One that arrives in the moment of closing is cancelled.
  } while (refused.ok() || refused.error_code() == grpc::StatusCode::CANCELLED);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  drain.join();
}

TEST(ServerTest, DrainCancelsWhatOutlivesItsGrace) {
  ProbeService service;
  const auto server = StartServer(&service);
  const Channel channel({.address = server->address()});
  grpc::ClientContext context;
  channel.Prepare(&context, milliseconds(10'000));
  auto stream = v1::InferenceService::NewStub(channel.grpc())->Session(&context);
  stream->WaitForInitialMetadata();
  const auto start = std::chrono::steady_clock::now();
  server->Drain(milliseconds(50));
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(5000));
  EXPECT_FALSE(stream->Finish().ok());
}

TEST(ServerTest, SurvivesGarbageBytes) {
  ProbeService service;
  const auto server = StartServer(&service);
  for (const std::string& garbage :
       {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(10'000, '\xff'),
        std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff"), std::string()}) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(garbage.size()));
    shutdown(fd, SHUT_WR);
    const timeval timeout{.tv_sec = 5, .tv_usec = 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    char answer[4096];
    while (recv(fd, answer, sizeof(answer), 0) > 0) {
    }
    close(fd);
    EXPECT_TRUE(Call(server->address()).ok());
  }
}

class ClusterSecretTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/secret_XXXXXX";
    dir_ = mkdtemp(pattern.data());
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string File(const std::string& text) {
    const std::string path = dir_ + "/secret";
    std::ofstream(path) << text;
    return path;
  }
  std::string dir_;
};

TEST_F(ClusterSecretTest, WhiteSpaceAroundItDoesNotCount) {
  const auto secret = ClusterSecret::Load(File("  0123456789abcdef\n"));
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_TRUE(secret->configured());
  EXPECT_EQ(secret->bytes(), "0123456789abcdef");
}

TEST_F(ClusterSecretTest, NoPathIsNoSecret) {
  const auto secret = ClusterSecret::Load("");
  ASSERT_TRUE(secret.ok());
  EXPECT_FALSE(secret->configured());
}

TEST_F(ClusterSecretTest, AMissingOrShortFileIsRefusedWithTheRemedy) {
  const auto missing = ClusterSecret::Load(dir_ + "/none");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/dev/urandom"));
  const auto empty = ClusterSecret::Load(File("\n"));
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(empty.status().message()), HasSubstr("holds 0 bytes"));
  EXPECT_EQ(ClusterSecret::Load(File("too short")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave::rpc
