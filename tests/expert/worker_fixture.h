// Real workers in this process, with a real controller and an engine as far as experts go.
#pragma once

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "services/controller/controller_service.h"
#include "services/engine/dispatch/remote_dispatch.h"
#include "services/expert/worker.h"
#include "shared/placement/member.h"
#include "shared/rpc/server.h"
#include "tests/expert/served_experts.h"
#include "tests/support/temp_dir.h"
#include "tests/support/wait.h"

namespace conclave::expert {

using conclave::testing::WaitFor;
using std::chrono::milliseconds;

// A real controller that can be ended and started again on its port.
class Controller {
 public:
  explicit Controller(const std::filesystem::path& state_dir) : state_dir_(state_dir) {
    Start("127.0.0.1:0");
  }
  ~Controller() { Stop(); }

  void Start(const std::string& listen) {
    controller::ControllerService::Options options;
    options.cluster.lease = milliseconds(1000);
    options.cluster.quiet = milliseconds(100);
    options.cluster.reassign_after = milliseconds(500);
    options.report_period = milliseconds(50);
    options.state_dir = state_dir_;
    options.registry = &registry_;
    auto service = controller::ControllerService::Create(options, &clock_);
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
    grpc::Service* const services[] = {service_.get()};
    auto server = rpc::Server::Start({.name = "controller", .listen = listen}, services);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = server_->address();
  }
  void Stop() {
    if (service_ == nullptr) return;
    service_->Shutdown();
    server_ = nullptr;
    service_ = nullptr;
  }
  const std::string& address() const { return address_; }

 private:
  const std::string state_dir_;
  SteadyClock clock_;
  metrics::Registry registry_;
  std::unique_ptr<controller::ControllerService> service_;
  std::unique_ptr<rpc::Server> server_;
  std::string address_;
};

inline constexpr milliseconds kCallTimeout{500};
// Where no call may fail, however busy the machine is.
inline constexpr milliseconds kPatience{20'000};

// An engine as far as experts go: a member with a dispatch that follows the topology.
class Engine {
 public:
  Engine(const placement::ModelIdentity& identity, const std::string& controller,
         milliseconds call_timeout = kCallTimeout) {
    engine::RemoteDispatch::Options dispatch_options;
    dispatch_options.engine_name = "engine-0";
    dispatch_options.model = identity;
    dispatch_options.call_timeout = call_timeout;
    auto dispatch = engine::RemoteDispatch::Create(dispatch_options);
    EXPECT_TRUE(dispatch.ok()) << dispatch.status();
    dispatch_ = *std::move(dispatch);
    placement::Membership::Options options;
    options.controller = controller;
    options.name = "engine-0";
    options.kind = placement::MemberKind::kEngine;
    options.address = "127.0.0.1:1";
    options.status = [identity] {
      placement::MemberStatus status;
      status.state = placement::MemberState::kReady;
      status.model = identity;
      return status;
    };
    options.on_topology = [this](std::shared_ptr<const placement::Topology> topology) {
      while (held_) std::this_thread::sleep_for(milliseconds(1));
      dispatch_->Apply(*topology);
    };
    membership_ = *placement::Membership::Start(std::move(options));
  }

  ~Engine() { held_ = false; }

  // While it holds, newer topologies are not applied, as in an engine that is busy elsewhere.
  void Hold(bool held) { held_ = held; }
  engine::RemoteDispatch& dispatch() { return *dispatch_; }
  std::shared_ptr<const placement::Topology> topology() const { return membership_->topology(); }

 private:
  std::atomic<bool> held_{false};
  std::unique_ptr<engine::RemoteDispatch> dispatch_;
  std::unique_ptr<placement::Membership> membership_;
};

class WorkerTest : public ::testing::Test {
 protected:
  CommonOptions Common(const std::string& model = "olmoe") const {
    CommonOptions common;
    common.model = CONCLAVE_SOURCE_DIR "/tests/golden/" + model;
    common.controller = controller_.address();
    common.state_dir = dir_.path() / "members";
    return common;
  }
  static ExpertOptions Options(const std::string& name) {
    ExpertOptions options;
    options.name = name;
    options.listen = options.ops_listen = "127.0.0.1:0";
    options.threads = 1;
    return options;
  }
  std::unique_ptr<Worker> StartWorker(const std::string& name) {
    auto worker = Worker::Start(Common(), Options(name));
    EXPECT_TRUE(worker.ok()) << worker.status();
    return worker.ok() ? *std::move(worker) : nullptr;
  }

  testing::TempDir dir_;
  Controller controller_{dir_.path() / "controller"};
  const placement::ModelIdentity identity_ =
      IdentityOf(*OpenGolden("olmoe"), kernels::NumericsClass::kBf16);
};

}  // namespace conclave::expert
