// Which way an engine takes to a worker of its host.

#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/remote_dispatch_fixture.h"

namespace conclave::engine {
namespace {

class HostLinksTest : public RemoteDispatchFixture {
 protected:
  int Links(const std::string& transport) {
    const std::string text = registry_.Expose();
    const std::string name = "conclave_worker_links{transport=\"" + transport + "\"} ";
    const size_t at = text.find(name);
    return at == std::string::npos ? -1 : std::stoi(text.substr(at + name.size()));
  }
  void ExpectLink(RemoteDispatch& dispatch, const std::string& transport) {
    ASSERT_TRUE(WaitForMissing(dispatch, 0));
    EXPECT_TRUE(WaitFor([&] { return Links(transport) == 1; })) << registry_.Expose();
    EXPECT_EQ(Links(transport == "grpc" ? "shared_memory" : "grpc"), 0);
    ExpectServed(dispatch, 5, 40);
  }
};

TEST_F(HostLinksTest, AWorkerOfThisHostIsReachedThroughMemory) {
  AddWorker();
  const auto dispatch = Connect();
  ExpectLink(*dispatch, "shared_memory");
}

TEST_F(HostLinksTest, OneOfAnotherHostIsNot) {
  AddWorker();
  topology_.models.front().workers.front().host_socket.host_id = "another";
  const auto dispatch = Connect();
  ExpectLink(*dispatch, "grpc");
}

// As in a container, which does not see the worker's files.
TEST_F(HostLinksTest, APathThatIsNotHereIsPassedOver) {
  AddWorker();
  topology_.models.front().workers.front().host_socket.path = folder_.path() / "elsewhere";
  const auto dispatch = Connect();
  ExpectLink(*dispatch, "grpc");
}

TEST_F(HostLinksTest, AFileThatIsNoSocketIsPassedOver) {
  AddWorker();
  const std::string path = folder_.path() / "file";
  std::ofstream(path) << "nothing";
  topology_.models.front().workers.front().host_socket.path = path;
  const auto dispatch = Connect();
  ExpectLink(*dispatch, "grpc");
}

// A container may have another worker's socket at the same path.
TEST_F(HostLinksTest, AnotherWorkersSocketIsNotUsed) {
  AddWorker(0, 2);
  AddWorker(1, 2);
  auto& workers = topology_.models.front().workers;
  workers[0].host_socket.path = workers[1].host_socket.path;
  const auto dispatch = Connect();
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  EXPECT_TRUE(WaitFor([&] { return Links("shared_memory") == 1 && Links("grpc") == 1; }));
  ExpectServed(*dispatch, 5, 40);
}

TEST_F(HostLinksTest, AnEngineOfAnotherClusterIsRefused) {
  ServedExperts::Options options;
  options.cluster = std::make_shared<rpc::ClusterId>("one");
  AddWorker(0, 1, options);
  const auto dispatch = Connect(milliseconds(5000), {}, "two");
  EXPECT_FALSE(WaitForMissing(*dispatch, 0, milliseconds(500)));
  EXPECT_LE(Links("shared_memory"), 0);
}

// Its socket is tried again when the worker answers at its port, so that neither way is kept by
// chance.
TEST_F(HostLinksTest, AWorkerThatWasDownIsReachedThroughMemoryAgain) {
  ServedExperts& worker = AddWorker();
  const auto dispatch = Connect();
  ExpectLink(*dispatch, "shared_memory");
  for (int i = 0; i < 3; ++i) {
    const std::string address = worker.address();
    worker.Kill();
    ASSERT_TRUE(WaitForMissing(*dispatch, identity_.AllExperts().size()));
    std::this_thread::sleep_for(
        milliseconds(i * 150));  // some attempts fail in one way or the other
    worker.Serve(address);
    ExpectLink(*dispatch, "shared_memory");
  }
}

// The engine's patience of a second ends over the socket, then that of two at the port, and so on.
TEST_F(HostLinksTest, AWorkerThatDidNotRunForAWhileIsReachedThroughMemoryAgain) {
  ServedExperts& worker = AddWorker();
  // A listener that nobody serves looks like a process that does not run.
  worker.CloseHostLinks();
  auto frozen = std::make_unique<shm::HostListener>(*shm::HostListener::Listen(worker.host_path()));
  const auto dispatch = Connect();
  std::this_thread::sleep_for(milliseconds(500));
  frozen = nullptr;
  worker.Kill();
  worker.Serve(worker.address());
  ExpectLink(*dispatch, "shared_memory");
}

// The way is chosen anew for the next connection; while nothing else fails, memory is not avoided.
TEST_F(HostLinksTest, AConnectionThatIsResetComesBackThroughMemory) {
  AddWorker();
  const auto dispatch = Connect();
  ExpectLink(*dispatch, "shared_memory");
  for (int i = 0; i < 3; ++i) {
    workers_[0]->ResetHostLinks();
    ASSERT_TRUE(WaitForMissing(*dispatch, identity_.AllExperts().size()));  // it is noticed
    ExpectLink(*dispatch, "shared_memory");
  }
}

// All fall back within moments of the engine's start.
TEST_F(HostLinksTest, ManyWorkersFallBackAtOnce) {
  for (int i = 0; i < 6; ++i) AddWorker(i, 6);
  for (auto& worker : topology_.models.front().workers)
    worker.host_socket.path = folder_.path() / "elsewhere";
  const auto dispatch = Connect();
  EXPECT_TRUE(WaitForMissing(*dispatch, 0, milliseconds(1500)));
  EXPECT_TRUE(WaitFor([&] { return Links("grpc") == 6; }));
  ExpectServed(*dispatch, 5, 40);
}

TEST_F(HostLinksTest, WhereOnlyTheSocketIsGoneThePortIsUsed) {
  ServedExperts& worker = AddWorker();
  const auto dispatch = Connect();
  ExpectLink(*dispatch, "shared_memory");
  worker.CloseHostLinks();
  ExpectLink(*dispatch, "grpc");
}

// More than the rings hold at once: what has no room waits, and nothing is lost.
TEST_F(HostLinksTest, ALongPromptIsServed) {
  AddWorker(0, 2);
  AddWorker(1, 2);
  const auto dispatch = Connect(milliseconds(30'000));
  ASSERT_TRUE(WaitForMissing(*dispatch, 0));
  ExpectServed(*dispatch, 9, 200'000);
}

}  // namespace
}  // namespace conclave::engine
