#include "shared/weights/model_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "shared/weights/packed_layout.h"
#include "shared/weights/packed_writer.h"
#include "tests/support/temp_dir.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TempDir;

void Write(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

// The folder as a packed file, with one tensor.
void PackTexts(const fs::path& folder, const fs::path& path) {
  PackedLayout layout(std::string(64, 'a'), "bf16");
  std::vector<std::string> texts;
  const auto names = FilesToPack(folder);
  ASSERT_TRUE(names.ok()) << names.status();
  for (const std::string& name : *names) {
    texts.push_back(*ModelFiles::Open(folder)->Read(name, 1 << 20));
    layout.AddText(name, texts.back());
  }
  PackedEntry vector;
  vector.name = "v";
  vector.order = PackedEntry::Order::kVector;
  vector.type = 1;
  vector.rows = vector.columns = 1;
  vector.bytes = 4;
  layout.AddEntry(vector);
  auto writer = PackedWriter::Create(path, std::move(layout).Finish(), texts, false);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Commit().ok());
}

TEST(ModelFilesTest, AFolderAndWhatIsPackedOfItHaveTheSame) {
  const TempDir dir;
  const fs::path folder = dir.path() / "model", file = dir.path() / "model.conclave";
  Write(folder / "config.json", "{}");
  Write(folder / "tokenizer.json", "tokens");
  Write(folder / "README.md", "is not taken along");
  Write(folder / "additional_chat_templates/b.jinja", "b");
  Write(folder / "additional_chat_templates/a.jinja", "a");
  Write(folder / "additional_chat_templates/notes.txt", "is not taken along");
  EXPECT_THAT(*FilesToPack(folder),
              ElementsAre("additional_chat_templates/a.jinja", "additional_chat_templates/b.jinja",
                          "config.json", "tokenizer.json"));
  PackTexts(folder, file);
  for (const fs::path& path : {folder, file}) {
    const auto files = ModelFiles::Open(path);
    ASSERT_TRUE(files.ok()) << files.status();
    EXPECT_EQ(files->packed(), path == file);
    EXPECT_TRUE(files->Has("config.json"));
    EXPECT_FALSE(files->Has("generation_config.json"));
    EXPECT_EQ(*files->Read("tokenizer.json", 6), "tokens");
    const absl::Status large = files->Read("tokenizer.json", 5).status();
    EXPECT_EQ(large.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(large.message()), HasSubstr("tokenizer.json"));
    EXPECT_EQ(files->Read("vocab.json", 5).status().code(), absl::StatusCode::kNotFound);
    EXPECT_EQ(*files->Read("additional_chat_templates/b.jinja", 5), "b");
    EXPECT_EQ(files->PathOf("config.json"), (path / "config.json").string());
  }
  EXPECT_THAT(ModelFiles::Open(file)->List("additional_chat_templates"),
              ElementsAre("a.jinja", "b.jinja"));
  EXPECT_THAT(ModelFiles::Open(folder)->List("additional_chat_templates"),
              ElementsAre("a.jinja", "b.jinja", "notes.txt"));
  EXPECT_EQ(*ResolveModel(file.string()), file);
}

TEST(ModelFilesTest, NamesComeFromFoldersAndFiles) {
  EXPECT_EQ(DefaultServedName("/models/DeepSeek-V2.5"), "DeepSeek-V2.5");
  EXPECT_EQ(DefaultServedName("/models/DeepSeek-V2.5.conclave"), "DeepSeek-V2.5");
  EXPECT_EQ(DefaultServedName("tales.int8"), "tales.int8");
}

}  // namespace
}  // namespace conclave::weights
