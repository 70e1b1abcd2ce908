// A cluster under a simulated clock, and members to report to it.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "services/controller/cluster.h"

namespace conclave::controller {

using placement::ExpertKeys;
using placement::MemberKind;
using placement::MemberState;
using placement::ModelTopology;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline placement::ModelIdentity MakeModel() {
  placement::ModelIdentity model;
  model.fingerprint = std::string(64, 'a');
  model.served_name = "tales";
  model.numerics_class = "bf16";
  model.num_layers = 3;
  model.moe_layers = {1, 2};
  model.num_experts = 4;
  model.expert_bytes = 100;
  return model;
}

inline Report MakeReport(const std::string& name, MemberKind kind) {
  Report report;
  report.name = name;
  report.incarnation = name + "-first";
  report.kind = kind;
  report.status.state = MemberState::kReady;
  if (kind != MemberKind::kGateway) report.status.model = MakeModel();
  report.address = "127.0.0.1:1";
  report.pid = 1;
  return report;
}

class ClusterTest : public testing::Test {
 protected:
  ClusterTest() : cluster_(Cluster::Options{}, /*term=*/1, &clock_) {}

  void Send(const Report& report) { ASSERT_TRUE(cluster_.OnReport(report).ok()); }

  // Lets time pass while the members that are given keep reporting.
  void Pass(Duration time, const std::vector<Report*>& reporting) {
    for (Duration passed{0}; passed < time; passed += milliseconds(50)) {
      clock_.Advance(milliseconds(50));
      for (const Report* report : reporting) Send(*report);
      cluster_.Tick();
    }
  }

  const ModelTopology& Model() { return cluster_.topology().models.at(0); }
  const ExpertKeys& Hold(const std::string& name) { return Model().FindWorker(name)->hold; }
  const ExpertKeys& Serve(const std::string& name) { return Model().FindWorker(name)->serve; }

  // The worker loads what it is told to hold and releases the rest.
  void Obey(Report& worker) {
    worker.status.holds = Hold(worker.name);
    worker.seen_epoch = cluster_.topology().epoch;
    Send(worker);
  }

  SimulatedClock clock_;
  Cluster cluster_;
  Report engine_ = MakeReport("engine-0", MemberKind::kEngine);
  Report first_ = MakeReport("expert-0", MemberKind::kExpert);
  Report second_ = MakeReport("expert-1", MemberKind::kExpert);
};

}  // namespace conclave::controller
