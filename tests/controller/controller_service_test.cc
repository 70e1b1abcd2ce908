#include "services/controller/controller_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "shared/base/mutex.h"
#include "shared/placement/member.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/server.h"
#include "shared/rpc/status.h"

namespace conclave::controller {
namespace {

using placement::MemberKind;
using placement::Membership;
using placement::MemberState;
using placement::MemberStatus;

constexpr std::chrono::seconds kPatience{20};

placement::ModelIdentity MakeModel() {
  placement::ModelIdentity model;
  model.fingerprint = std::string(64, 'a');
  model.served_name = "tales";
  model.numerics_class = "bf16";
  model.num_layers = 2;
  model.moe_layers = {1};
  model.num_experts = 4;
  model.expert_bytes = 100;
  return model;
}

// A member that obeys: workers hold what the topology says.
class Member {
 public:
  Member(const std::string& name, MemberKind kind, const std::string& controller,
         const std::string& state_dir, const rpc::ClusterSecret& secret = {},
         const std::string& cluster = "")
      : name_(name), kind_(kind), cluster_(std::make_shared<rpc::ClusterId>(cluster)) {
    Membership::Options options;
    options.cluster = cluster_;
    options.controller = controller;
    options.secret = secret;
    options.name = name;
    options.kind = kind;
    options.address = "127.0.0.1:1";
    options.state_dir = state_dir;
    options.status = [this] {
      MutexLock lock(mutex_);
      MemberStatus status;
      status.state = MemberState::kReady;
      if (kind_ != MemberKind::kGateway) status.model = MakeModel();
      status.holds = holds_;
      return status;
    };
    options.on_topology = [this](std::shared_ptr<const placement::Topology> topology) {
      MutexLock lock(mutex_);
      topology_ = topology;
      const placement::ModelTopology* model = topology->Find(MakeModel().fingerprint);
      const placement::TopologyWorker* self = model == nullptr ? nullptr : model->FindWorker(name_);
      if (self != nullptr) holds_ = self->hold;
      changed_.NotifyAll();
    };
    options.on_cluster = [this](const placement::ClusterView& view) {
      MutexLock lock(mutex_);
      view_ = view;
      changed_.NotifyAll();
    };
    options.on_refused = [this](const absl::Status& status) {
      MutexLock lock(mutex_);
      refused_ = status;
      changed_.NotifyAll();
    };
    options.on_note = [this](const std::string& note) {
      MutexLock lock(mutex_);
      note_ = note;
      changed_.NotifyAll();
    };
    membership_ = *Membership::Start(options);
  }

  // Waits until the condition holds for (topology, view, refusal).
  template <typename Condition>
  bool WaitFor(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    MutexLock lock(mutex_);
    while (!condition(topology_.get(), view_, refused_)) {
      if (!changed_.WaitUntil(mutex_, deadline)) return false;
    }
    return true;
  }

  bool WaitUntilComplete() {
    return WaitFor([](const placement::Topology* topology, const auto&, const auto&) {
      return topology != nullptr && !topology->models.empty() &&
             topology->models[0].Missing().empty();
    });
  }

  // Waits until the line for /readyz is as wanted, and returns it.
  std::string WaitForNote(bool wanted) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    MutexLock lock(mutex_);
    while (note_.empty() == wanted && changed_.WaitUntil(mutex_, deadline)) {
    }
    EXPECT_EQ(!note_.empty(), wanted) << note_;
    return note_;
  }

  std::shared_ptr<const placement::Topology> topology() { return membership_->topology(); }
  std::string cluster() const { return cluster_->value(); }
  absl::Status refused() {
    MutexLock lock(mutex_);
    return refused_;
  }
  void Leave() { membership_->Leave(); }

 private:
  const std::string name_;
  const MemberKind kind_;
  const std::shared_ptr<rpc::ClusterId> cluster_;
  Mutex mutex_;
  CondVar changed_;
  placement::ExpertKeys holds_;
  std::shared_ptr<const placement::Topology> topology_;
  placement::ClusterView view_;
  absl::Status refused_;
  std::string note_;
  std::unique_ptr<Membership> membership_;  // last: its thread uses the rest
};

class ControllerServiceTest : public testing::Test {
 protected:
  ControllerServiceTest()
      : dir_(std::filesystem::temp_directory_path() /
             ("conclave-controller-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(dir_);
    StartController("127.0.0.1:0");
  }
  ~ControllerServiceTest() override {
    StopController();
    std::filesystem::remove_all(dir_);
  }

  void StartController(const std::string& listen, const std::string& cluster = "",
                       const std::string& folder = "") {
    ControllerService::Options options;
    options.cluster_id = cluster;
    options.report_period = std::chrono::milliseconds(50);
    options.cluster.lease = std::chrono::milliseconds(1000);
    options.state_dir = folder.empty() ? dir_.string() : folder;
    std::filesystem::create_directories(options.state_dir);
    options.secret = secret_;
    options.registry = &registry_;
    auto service = ControllerService::Create(options, &clock_);
    ASSERT_TRUE(service.ok()) << service.status();
    service_ = *std::move(service);
    rpc::ServerOptions server_options;
    server_options.name = "controller";
    server_options.listen = listen;
    grpc::Service* const services[] = {service_.get()};
    auto server = rpc::Server::Start(server_options, services);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    address_ = server_->address();
  }
  void StopController() {
    if (service_ == nullptr) return;
    service_->Shutdown();
    server_.reset();
    service_.reset();
  }

  const std::filesystem::path dir_;
  SteadyClock clock_;
  metrics::Registry registry_;
  rpc::ClusterSecret secret_;
  std::unique_ptr<ControllerService> service_;
  std::unique_ptr<rpc::Server> server_;
  std::string address_;
};

TEST_F(ControllerServiceTest, PlacesExpertsAndTellsEveryone) {
  Member engine("engine-0", MemberKind::kEngine, address_, dir_);
  Member first("expert-0", MemberKind::kExpert, address_, dir_);
  Member second("expert-1", MemberKind::kExpert, address_, dir_);
  Member gateway("gateway", MemberKind::kGateway, address_, dir_);
  EXPECT_TRUE(engine.WaitUntilComplete());
  EXPECT_EQ(engine.topology()->models[0].workers.size(), 2u);
  EXPECT_TRUE(gateway.WaitFor([](const auto*, const placement::ClusterView& view, const auto&) {
    return view.engines.size() == 1;
  }));
  EXPECT_EQ(service_->num_live_members(), 4);
  second.Leave();
  EXPECT_TRUE(gateway.WaitFor([](const placement::Topology* topology, const auto&, const auto&) {
    return topology != nullptr && !topology->models.empty() &&
           !topology->models[0].Missing().empty();
  }));
}

TEST_F(ControllerServiceTest, ARestartKeepsThePlacementAndTakesAHigherTerm) {
  Member engine("engine-0", MemberKind::kEngine, address_, dir_);
  Member first("expert-0", MemberKind::kExpert, address_, dir_);
  Member second("expert-1", MemberKind::kExpert, address_, dir_);
  ASSERT_TRUE(engine.WaitUntilComplete());
  const auto before = engine.topology();
  const std::string address = address_;
  StopController();
  EXPECT_EQ(engine.topology(), before);  // absence changes nothing
  StartController(address);
  EXPECT_TRUE(engine.WaitFor([&](const placement::Topology* topology, const auto&, const auto&) {
    return topology->epoch.term > before->epoch.term && topology->models.size() == 1 &&
           topology->models[0].workers.size() == 2 && topology->models[0].Missing().empty();
  }));
  for (const placement::TopologyWorker& worker : before->models[0].workers) {
    EXPECT_EQ(engine.topology()->models[0].FindWorker(worker.name)->serve, worker.serve);
  }
}

TEST_F(ControllerServiceTest, AMemberStartsFromTheTopologyOnDisk) {
  std::shared_ptr<const placement::Topology> before;
  {
    Member engine("engine-0", MemberKind::kEngine, address_, dir_);
    Member first("expert-0", MemberKind::kExpert, address_, dir_);
    ASSERT_TRUE(engine.WaitUntilComplete());
    before = engine.topology();
  }
  StopController();
  Member again("engine-0", MemberKind::kEngine, address_, dir_);
  ASSERT_TRUE(again.WaitFor([](const placement::Topology* topology, const auto&, const auto&) {
    return topology != nullptr;
  }));
  EXPECT_GE(again.topology()->epoch.term, 1u);
  EXPECT_EQ(again.topology()->models[0].model.served_name, "tales");
}

TEST_F(ControllerServiceTest, ATakenNameIsRefusedAndTheFirstHolderGoesOn) {
  Member first("engine-0", MemberKind::kEngine, address_, "");
  ASSERT_TRUE(first.WaitFor(
      [](const placement::Topology* t, const auto&, const auto&) { return t != nullptr; }));
  Member second("engine-0", MemberKind::kEngine, address_, "");
  EXPECT_TRUE(second.WaitFor([](const auto*, const auto&, const absl::Status& refused) {
    return refused.code() == absl::StatusCode::kAlreadyExists;
  }));
  EXPECT_EQ(service_->num_live_members(), 1);
}

TEST_F(ControllerServiceTest, AWrongSecretIsRefused) {
  StopController();
  secret_ = rpc::ClusterSecret("0123456789abcdef");
  StartController("127.0.0.1:0");
  Member outsider("engine-0", MemberKind::kEngine, address_, "");
  EXPECT_TRUE(outsider.WaitFor([](const auto*, const auto&, const absl::Status& refused) {
    return refused.code() == absl::StatusCode::kUnauthenticated;
  }));
  Member insider("engine-1", MemberKind::kEngine, address_, "", secret_);
  EXPECT_TRUE(insider.WaitFor(
      [](const placement::Topology* t, const auto&, const auto&) { return t != nullptr; }));
}

TEST_F(ControllerServiceTest, AdminCallsShowMembersTopologyAndEvents) {
  Member engine("engine-0", MemberKind::kEngine, address_, "");
  Member first("expert-0", MemberKind::kExpert, address_, "");
  ASSERT_TRUE(engine.WaitUntilComplete());
  const rpc::Channel channel({address_, {}});
  const auto stub = v1::PlacementService::NewStub(channel.grpc());
  grpc::ClientContext members_call, topology_call, events_call;
  v1::ListMembersResponse members;
  ASSERT_TRUE(stub->ListMembers(&members_call, {}, &members).ok());
  ASSERT_EQ(members.members_size(), 2);
  EXPECT_EQ(members.members(0).report().name(), "engine-0");
  EXPECT_TRUE(members.members(0).live());
  v1::Topology topology;
  ASSERT_TRUE(stub->GetTopology(&topology_call, {}, &topology).ok());
  EXPECT_EQ(topology.models_size(), 1);
  v1::ListEventsRequest last;
  last.set_last(1);
  v1::ListEventsResponse events;
  ASSERT_TRUE(stub->ListEvents(&events_call, last, &events).ok());
  EXPECT_EQ(events.events_size(), 1);
}

TEST_F(ControllerServiceTest, EveryEventIsLoggedOnce) {
  testing::internal::CaptureStderr();
  {
    Member engine("engine-0", MemberKind::kEngine, address_, "");
    Member first("expert-0", MemberKind::kExpert, address_, "");
    EXPECT_TRUE(engine.WaitUntilComplete());
    first.Leave();
  }
  StopController();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("placed 4 experts of tales on 1 worker member=controller"), std::string::npos)
      << log;
  // What came last, just before the end, too.
  for (const char* const text :
       {"4 experts are without a worker member=expert-0", "left member=engine-0"}) {
    const size_t once = log.find(text);
    ASSERT_NE(once, std::string::npos) << text << '\n' << log;
    EXPECT_EQ(log.find(text, once + 1), std::string::npos) << log;
  }
}

TEST_F(ControllerServiceTest, AControllerDrawsAnIdAndKeepsIt) {
  const std::string drawn = service_->cluster_id();
  EXPECT_EQ(drawn.size(), 16u);
  StopController();
  StartController("127.0.0.1:0");
  EXPECT_EQ(service_->cluster_id(), drawn);
  StopController();
  StartController("127.0.0.1:0", "east");
  EXPECT_EQ(service_->cluster_id(), "east");
  StopController();
  StartController("127.0.0.1:0");
  EXPECT_EQ(service_->cluster_id(), "east");
}

TEST_F(ControllerServiceTest, AMemberWithoutAnIdLearnsItAndKeepsItOnDisk) {
  {
    Member engine("engine-0", MemberKind::kEngine, address_, dir_);
    Member worker("expert-0", MemberKind::kExpert, address_, dir_);
    ASSERT_TRUE(engine.WaitUntilComplete());
    EXPECT_EQ(engine.cluster(), service_->cluster_id());
    EXPECT_EQ(engine.topology()->cluster_id, service_->cluster_id());
  }
  const std::string learned = service_->cluster_id();
  const std::string address = address_;
  StopController();
  StartController(address, "another", dir_ / "another");
  Member again("engine-0", MemberKind::kEngine, address_, dir_);
  EXPECT_THAT(again.WaitForNote(true), testing::HasSubstr("another"));
  EXPECT_EQ(again.cluster(), learned);
}

// The fault that ids are for: a second cluster's controller on the port of a dead one.
TEST_F(ControllerServiceTest, AnotherClustersControllerIsNotJoinedAndTheOwnOneIsFoundAgain) {
  StopController();
  StartController("127.0.0.1:0", "east");
  const std::string address = address_;
  Member engine("engine-0", MemberKind::kEngine, address, dir_, {}, "east");
  Member worker("expert-0", MemberKind::kExpert, address, dir_, {}, "east");
  ASSERT_TRUE(engine.WaitUntilComplete());
  const auto before = engine.topology();
  StopController();
  StartController(address, "west", dir_ / "west");
  Member stranger("engine-7", MemberKind::kEngine, address, "", {}, "west");
  const std::string note = engine.WaitForNote(true);
  EXPECT_THAT(note, testing::HasSubstr("east"));
  EXPECT_THAT(note, testing::HasSubstr("west"));
  worker.WaitForNote(true);
  ASSERT_TRUE(stranger.WaitFor(
      [](const placement::Topology* t, const auto&, const auto&) { return t != nullptr; }));
  EXPECT_EQ(service_->num_live_members(), 1);
  EXPECT_EQ(engine.topology(), before);
  EXPECT_EQ(engine.refused(), absl::OkStatus());  // it is not final

  StopController();
  StartController(address, "east");
  engine.WaitForNote(false);
  EXPECT_TRUE(engine.WaitFor([&](const placement::Topology* t, const auto&, const auto&) {
    return t->epoch.term > before->epoch.term && !t->models.empty() &&
           t->models[0].Missing().empty();
  }));
}

TEST_F(ControllerServiceTest, AKeptTopologyOfAnotherClusterIsNotUsed) {
  {
    Member engine("engine-0", MemberKind::kEngine, address_, dir_);
    Member worker("expert-0", MemberKind::kExpert, address_, dir_);
    ASSERT_TRUE(engine.WaitUntilComplete());
  }
  StopController();
  StartController("127.0.0.1:0", "new", dir_ / "new");
  Member moved("engine-0", MemberKind::kEngine, address_, dir_, {}, "new");
  ASSERT_TRUE(moved.WaitFor(
      [](const placement::Topology* t, const auto&, const auto&) { return t != nullptr; }));
  EXPECT_EQ(moved.topology()->cluster_id, "new");
  EXPECT_TRUE(moved.topology()->models.empty() || moved.topology()->models[0].workers.empty());
}

TEST_F(ControllerServiceTest, AdminCallsOfAnotherClusterAreRefused) {
  const rpc::Channel channel(
      {.address = address_, .cluster = std::make_shared<rpc::ClusterId>("another")});
  grpc::ClientContext call;
  channel.Prepare(&call, kPatience);
  v1::ListMembersResponse members;
  const grpc::Status status =
      v1::PlacementService::NewStub(channel.grpc())->ListMembers(&call, {}, &members);
  EXPECT_TRUE(rpc::IsOtherCluster(rpc::FromGrpc(status)));
}

TEST_F(ControllerServiceTest, ADamagedStateFileIsNamed) {
  std::ofstream(dir_ / "controller.json") << "{";
  ControllerService::Options options;
  options.state_dir = dir_;
  const auto service = ControllerService::Create(options, &clock_);
  ASSERT_FALSE(service.ok());
  EXPECT_THAT(std::string(service.status().message()), testing::HasSubstr("controller.json"));
}

}  // namespace
}  // namespace conclave::controller
