#include "shared/placement/topology.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "shared/placement/topology_file.h"
#include "shared/placement/topology_proto.h"

namespace conclave::placement {
namespace {

Topology MakeTopology() {
  Topology topology;
  topology.epoch = {3, 7};
  ModelTopology& model = topology.models.emplace_back();
  model.model.fingerprint = std::string(64, 'a');
  model.model.served_name = "tales";
  model.model.numerics_class = "bf16";
  model.model.num_layers = 3;
  model.model.moe_layers = {1, 2};
  model.model.num_experts = 2;
  model.model.expert_bytes = 4096;
  model.workers.push_back({"expert-0",
                           "127.0.0.1:1",
                           "h0",
                           {"kernel-0", "/state/expert-0.rows"},
                           true,
                           {{1, 0}, {2, 0}},
                           {{1, 0}}});
  model.workers.push_back(
      {"expert-1", "127.0.0.1:2", "h1", {}, true, {{1, 1}, {2, 1}}, {{1, 1}, {2, 1}}});
  return topology;
}

class TopologyFileTest : public testing::Test {
 protected:
  TopologyFileTest()
      : dir_(std::filesystem::temp_directory_path() /
             ("conclave-topology-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(dir_);
  }
  ~TopologyFileTest() override { std::filesystem::remove_all(dir_); }
  const std::filesystem::path dir_;
};

TEST(TopologyTest, MissingListsWhatNoLiveWorkerServes) {
  Topology topology = MakeTopology();
  EXPECT_EQ(topology.models[0].Missing(), (ExpertKeys{{2, 0}}));
  topology.models[0].workers[1].live = false;
  EXPECT_EQ(topology.models[0].Missing(), (ExpertKeys{{1, 1}, {2, 0}, {2, 1}}));
}

TEST(TopologyTest, EpochsOrderByTermFirst) {
  EXPECT_LT((Epoch{1, 9}), (Epoch{2, 0}));
  EXPECT_LT((Epoch{2, 0}), (Epoch{2, 1}));
}

TEST(TopologyTest, DescribesExpertsInRanges) {
  EXPECT_EQ(DescribeExperts({}), "");
  EXPECT_EQ(DescribeExperts({{1, 3}}), "layer 1 expert 3");
  EXPECT_EQ(DescribeExperts({{1, 0}, {1, 1}, {1, 4}, {2, 0}, {2, 1}, {2, 4}, {5, 3}}),
            "layers 1-2 experts 0-1, 4; layer 5 expert 3");
}

TEST(TopologyTest, SurvivesTheProtocolBuffer) {
  const Topology topology = MakeTopology();
  v1::Topology proto;
  ToProto(topology, &proto);
  const Topology back = FromProto(proto);
  EXPECT_EQ(back.epoch, topology.epoch);
  EXPECT_EQ(back.models, topology.models);
}

TEST_F(TopologyFileTest, IsWrittenAndRead) {
  const std::string path = TopologyFilePath(dir_, "engine-0");
  EXPECT_EQ(path, dir_.string() + "/topology-engine-0.json");
  ASSERT_TRUE(WriteTopologyFile(path, MakeTopology()).ok());
  const auto read = ReadTopologyFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_TRUE(read->has_value());
  EXPECT_EQ((*read)->models, MakeTopology().models);
}

// As after a step back to an earlier version.
TEST_F(TopologyFileTest, WhatIsNotKnownIsPassedOver) {
  const std::string path = dir_ / "later.json";
  ASSERT_TRUE(WriteTopologyFile(path, MakeTopology()).ok());
  std::ifstream file(path);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  text.insert(text.find('{') + 1, R"("ofALaterTime": {"x": [1]}, )");
  std::ofstream(path) << text;
  const auto read = ReadTopologyFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ((*read)->models, MakeTopology().models);
}

TEST_F(TopologyFileTest, AnAbsentFileIsNone) {
  const auto read = ReadTopologyFile(dir_ / "none.json");
  ASSERT_TRUE(read.ok());
  EXPECT_FALSE(read->has_value());
}

TEST_F(TopologyFileTest, ADamagedFileIsNamed) {
  const std::string path = dir_ / "topology-x.json";
  std::ofstream(path) << R"({"epoch": {"term": )";
  const auto read = ReadTopologyFile(path);
  EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(read.status().message().find(path), std::string::npos);
}

}  // namespace
}  // namespace conclave::placement
