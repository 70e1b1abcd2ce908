#include "shared/weights/shard_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>

#include "tests/support/temp_dir.h"
#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::FloatTensor;
using ::testing::HasSubstr;
using testing::RawTensors;
using testing::WriteTensors;
using testing::WriteText;

std::string Message(const absl::StatusOr<ShardSet>& result) {
  return std::string(result.status().message());
}

class ShardSetTest : public ::testing::Test {
 protected:
  fs::path Path(const std::string& name) const { return dir_.path() / name; }
  absl::StatusOr<ShardSet> Open() const { return ShardSet::Open(dir_.path()); }
  void WriteIndex(const std::string& weight_map) const {
    WriteText(Path("model.safetensors.index.json"), R"({"weight_map":)" + weight_map + "}");
  }
  void WriteTwoShards() const {
    WriteTensors(Path("1.safetensors"), {{"a", FloatTensor({2}, {1, 2})}});
    WriteTensors(Path("2.safetensors"), {{"b", FloatTensor({1}, {3})}});
    WriteIndex(R"({"a":"1.safetensors","b":"2.safetensors"})");
  }

 private:
  testing::TempDir dir_;
};

TEST_F(ShardSetTest, ReadsOneFile) {
  WriteTensors(Path("model.safetensors"), {{"a", FloatTensor({2}, {1, 2})}});
  const auto set = Open();
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->files().size(), 1u);
  ASSERT_NE(set->Find("a"), nullptr);
  EXPECT_EQ(set->Find("b"), nullptr);
  float second;
  std::memcpy(&second, set->Find("a")->data() + 4, 4);
  EXPECT_EQ(second, 2.0f);
}

TEST_F(ShardSetTest, ReadsTheOnlyFileWhateverItsName) {
  WriteTensors(Path("weights.safetensors"), {{"a", FloatTensor({1}, {1})}});
  EXPECT_TRUE(Open().ok());
}

TEST_F(ShardSetTest, RefusesAPipeAtOnce) {
  ASSERT_EQ(mkfifo(Path("model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(Message(Open()), HasSubstr("model.safetensors is not a regular file"));
  fs::remove(Path("model.safetensors"));
  WriteTwoShards();
  fs::remove(Path("2.safetensors"));
  ASSERT_EQ(mkfifo(Path("2.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(Message(Open()), HasSubstr("2.safetensors is not a regular file"));
  fs::remove(Path("model.safetensors.index.json"));
  ASSERT_EQ(mkfifo(Path("model.safetensors.index.json").c_str(), 0600), 0);
  EXPECT_THAT(Message(Open()), HasSubstr("index.json is not a regular file"));
}

TEST_F(ShardSetTest, ReadsShards) {
  WriteTwoShards();
  const auto set = Open();
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->files().size(), 2u);
  EXPECT_EQ(set->Find("b")->file->path(), Path("2.safetensors"));
}

TEST_F(ShardSetTest, NamesAMissingShard) {
  WriteTwoShards();
  fs::remove(Path("2.safetensors"));
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(Open()), HasSubstr("1 of 2 shards are missing, 2.safetensors; finish the "
                                         "download"));
}

TEST_F(ShardSetTest, ADanglingLinkIsAMissingShard) {
  WriteTwoShards();
  fs::remove(Path("2.safetensors"));
  fs::create_symlink("blobs/none", Path("2.safetensors"));
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kNotFound);
}

TEST_F(ShardSetTest, NamesATruncatedShard) {
  WriteTwoShards();
  fs::resize_file(Path("2.safetensors"), fs::file_size(Path("2.safetensors")) - 1);
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(Open()), AllOf(HasSubstr("2.safetensors: tensor b"), HasSubstr("truncated")));
}

TEST_F(ShardSetTest, EveryTruncationIsAnError) {
  WriteTensors(Path("model.safetensors"), {{"a", FloatTensor({2}, {1, 2})}});
  const std::string whole = testing::ReadText(Path("model.safetensors"));
  for (size_t length = 0; length < whole.size(); ++length) {
    WriteText(Path("model.safetensors"), whole.substr(0, length));
    EXPECT_EQ(Open().status().code(), absl::StatusCode::kInvalidArgument) << length;
  }
}

TEST_F(ShardSetTest, RefusesATensorInTwoShards) {
  WriteTwoShards();
  WriteTensors(Path("2.safetensors"), {{"a", FloatTensor({1}, {9})}, {"b", FloatTensor({1}, {3})}});
  EXPECT_THAT(Message(Open()), AllOf(HasSubstr("tensor a is in both"), HasSubstr("1.safetensors"),
                                     HasSubstr("2.safetensors")));
}

TEST_F(ShardSetTest, RefusesAnIndexThatNamesATensorNotThere) {
  WriteTwoShards();
  WriteIndex(R"({"a":"1.safetensors","b":"2.safetensors","c":"2.safetensors"})");
  EXPECT_THAT(Message(Open()), HasSubstr("tensor c is in 2.safetensors, but no shard has it"));
  WriteIndex(R"({"a":"2.safetensors","b":"1.safetensors"})");
  EXPECT_THAT(Message(Open()),
              HasSubstr("tensor a is in 2.safetensors, but it is in 1.safetensors"));
}

TEST_F(ShardSetTest, RefusesATensorThatTheIndexDoesNotName) {
  WriteTwoShards();
  WriteTensors(Path("2.safetensors"), {{"b", FloatTensor({1}, {3})}, {"c", FloatTensor({1}, {3})}});
  EXPECT_THAT(Message(Open()),
              AllOf(HasSubstr("2.safetensors: tensor c"), HasSubstr("not in the weight_map")));
}

TEST_F(ShardSetTest, RefusesDamagedIndexes) {
  WriteTwoShards();
  WriteIndex("[]");
  EXPECT_THAT(Message(Open()), HasSubstr("weight_map is missing, empty or no object"));
  WriteIndex(R"({"a":7})");
  EXPECT_THAT(Message(Open()), HasSubstr("weight_map maps a to 7"));
  for (const char* outside : {"../1.safetensors", "/etc/passwd", "..", "sub/1.safetensors", ""}) {
    WriteIndex(std::string(R"({"a":")") + outside + "\"}");
    EXPECT_THAT(Message(Open()), HasSubstr("wanted a file name in the same folder")) << outside;
  }
  WriteText(Path("model.safetensors.index.json"), "{");
  EXPECT_THAT(Message(Open()), HasSubstr("is not a JSON object"));
  WriteText(Path("model.safetensors.index.json"), "");
  EXPECT_THAT(Message(Open()), HasSubstr("is not a JSON object"));
  WriteIndex(R"({"a":"1.safetensors","a":"2.safetensors"})");
  EXPECT_THAT(Message(Open()), HasSubstr("has the key a twice"));
}

TEST_F(ShardSetTest, SaysWhatElseIsInTheFolder) {
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(Open()), HasSubstr("holds no weights"));
  WriteText(Path("pytorch_model.bin"), "x");
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(Open()), HasSubstr("save_pretrained(safe_serialization=True)"));
  WriteText(Path("model-Q4_K_M.gguf"), "GGUF");
  EXPECT_EQ(Open().status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(Message(Open()), HasSubstr("GGUF"));
  WriteTensors(Path("a.safetensors"), {{"a", FloatTensor({1}, {1})}});
  WriteTensors(Path("b.safetensors"), {{"b", FloatTensor({1}, {1})}});
  EXPECT_THAT(Message(Open()),
              HasSubstr("2 safetensors files but no model.safetensors.index.json"));
}

TEST_F(ShardSetTest, AFolderInPlaceOfAFileIsAnError) {
  fs::create_directory(Path("model.safetensors"));
  EXPECT_FALSE(Open().ok());
}

}  // namespace
}  // namespace conclave::weights
