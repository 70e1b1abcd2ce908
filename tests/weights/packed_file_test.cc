#include "shared/weights/packed_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "shared/weights/packed_writer.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/packed_fixture.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;
using ::conclave::testing::BytesOfText;
using ::conclave::testing::SmallFile;
using ::conclave::testing::SmallIndex;
using ::conclave::testing::SmallTensor;
using ::conclave::testing::SmallTexts;
using ::conclave::testing::TempDir;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

std::string Read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void Store(const fs::path& path, std::string_view bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// Changes bits of one byte of a stored file.
void Flip(const fs::path& path, uint64_t at, char bits) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(at));
  const char byte = static_cast<char>(file.get() ^ bits);
  file.seekp(static_cast<std::streamoff>(at));
  file.put(byte);
}

std::vector<std::string> NamesIn(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

// Writes a tensor in pieces, the last first.
void WriteTensor(PackedWriter& writer, size_t i) {
  const std::string tensor = SmallTensor(writer.index().entries[i]);
  const auto bytes = BytesOfText(tensor);
  EXPECT_TRUE(writer.Write(i, 10, bytes.subspan(10)).ok());
  EXPECT_TRUE(writer.Write(i, 0, bytes.first(10)).ok());
  writer.SetChecksum(i, Crc32c(bytes));
}

absl::Status Pack(const fs::path& path, bool replace = false) {
  auto writer = PackedWriter::Create(path, SmallIndex(), SmallTexts(), replace);
  if (!writer.ok()) return writer.status();
  for (size_t i = 0; i < SmallIndex().entries.size(); ++i) WriteTensor(**writer, i);
  return (*writer)->Commit();
}

class PackedFileTest : public ::testing::Test {
 protected:
  TempDir dir_;
  const fs::path path_ = dir_.path() / "m.packed";
};

using PackedWriterTest = PackedFileTest;

TEST_F(PackedFileTest, ReadsWhatWasWritten) {
  ASSERT_TRUE(Pack(path_).ok());
  EXPECT_EQ(Read(path_), SmallFile());
  const auto file = PackedFile::Open(path_);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*file)->path(), path_);
  EXPECT_EQ((*file)->index().fingerprint, SmallIndex().fingerprint);
  EXPECT_EQ((*file)->index().numerics, "int8+int4");
  EXPECT_EQ(*(*file)->Text("config.json"), SmallTexts()[0]);
  EXPECT_EQ(*(*file)->Text("generation_config.json"), "");
  EXPECT_EQ(*(*file)->Text("additional_chat_templates/tool_use.jinja"), SmallTexts()[2]);
  const absl::Status missing = (*file)->Text("tokenizer.json").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(missing), AllOf(HasSubstr(path_), HasSubstr("no text \"tokenizer.json\"")));

  EXPECT_EQ((*file)->Find("model.norm.bias"), nullptr);
  for (const PackedEntry& entry : SmallIndex().entries) {
    const PackedEntry* const found = (*file)->Find(entry.name);
    ASSERT_NE(found, nullptr);
    const auto bytes = (*file)->Bytes(*found);
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
              SmallTensor(entry));
    EXPECT_TRUE((*file)->Verify(*found).ok());
  }
  EXPECT_TRUE((*file)->VerifyAll(2, nullptr).ok());
  EXPECT_TRUE((*file)->CheckUnchanged().ok());
}

TEST_F(PackedFileTest, RefusesEveryFlippedByteOfATextAtOnce) {
  Store(path_, SmallFile());
  for (const PackedText& text : SmallIndex().texts) {
    for (uint64_t at = text.offset; at < text.offset + text.bytes; ++at) {
      Flip(path_, at, 0x10);
      const absl::Status status = PackedFile::Open(path_).status();
      ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss);
      ASSERT_THAT(Message(status), AllOf(HasSubstr(path_), HasSubstr("is damaged: the text \""),
                                         HasSubstr(text.name), HasSubstr("has the checksum"),
                                         HasSubstr("copy or pack it again")));
      Flip(path_, at, 0x10);
    }
  }
  EXPECT_TRUE(PackedFile::Open(path_).ok());
}

TEST_F(PackedFileTest, FindsEveryFlippedByteBehindTheTable) {
  Store(path_, SmallFile());
  const PackedIndex index = SmallIndex();
  // Which tensor a byte belongs to; padding to none.
  const auto owner = [&index](uint64_t at) -> std::optional<size_t> {
    for (size_t i = 0; i < index.entries.size(); ++i) {
      const PackedEntry& entry = index.entries[i];
      if (at >= entry.offset && at < entry.offset + entry.bytes) return i;
    }
    return std::nullopt;
  };
  const PackedText& last_text = index.texts.back();
  for (uint64_t at = last_text.offset + last_text.bytes; at < index.file_bytes; ++at) {
    Flip(path_, at, 0x10);
    const auto packed = PackedFile::Open(path_);
    ASSERT_TRUE(packed.ok()) << at;  // tensors are not read
    const std::optional<size_t> i = owner(at);
    for (size_t j = 0; j < index.entries.size(); ++j) {
      const absl::Status one = (*packed)->Verify((*packed)->index().entries[j]);
      ASSERT_EQ(one.ok(), i != j) << at;
      if (i != j) continue;
      ASSERT_EQ(one.code(), absl::StatusCode::kDataLoss);
      ASSERT_THAT(Message(one), AllOf(HasSubstr(path_), HasSubstr(index.entries[j].name)));
    }
    const absl::Status all = (*packed)->VerifyAll(1, nullptr);
    ASSERT_EQ(all.code(), absl::StatusCode::kDataLoss);
    ASSERT_THAT(Message(all),
                HasSubstr(i ? "the tensor \"" + index.entries[*i].name
                            : "byte " + std::to_string(at) + ", which belongs to nothing, is 16"));
    Flip(path_, at, 0x10);
  }
  EXPECT_TRUE((*PackedFile::Open(path_))->VerifyAll(1, nullptr).ok());
}

TEST_F(PackedFileTest, FindsBytesBetweenTableAndTexts) {
  std::string file = SmallFile();
  const PackedIndex index = SmallIndex();
  const uint64_t end = index.texts[0].offset + index.texts[0].bytes;
  ASSERT_LT(end, index.texts[1].offset);
  file[end] = 1;
  Store(path_, file);
  EXPECT_THAT(Message((*PackedFile::Open(path_))->VerifyAll(1, nullptr)),
              HasSubstr("byte " + std::to_string(end) + ", which belongs to nothing, is 1"));
}

// Many tensors, several of them damaged: whatever the threads do, the first is told.
TEST_F(PackedFileTest, VerifiesWithSeveralThreads) {
  PackedLayout layout(std::string(64, '0'), "f32");
  const std::string tensor(1000, 'x');
  for (int i = 0; i < 500; ++i) {
    PackedEntry entry;
    entry.name = "t" + std::to_string(i);
    entry.order = PackedEntry::Order::kVector;
    entry.type = 1;
    entry.rows = 250;
    entry.columns = 1;
    entry.bytes = 1000;
    entry.checksum = Crc32c(BytesOfText(tensor));
    layout.AddEntry(entry);
  }
  const PackedIndex index = std::move(layout).Finish();
  std::string file = index.Serialise();
  file.resize(index.file_bytes);
  for (const PackedEntry& entry : index.entries) file.replace(entry.offset, 1000, tensor);
  Store(path_, file);
  for (const int threads : {1, 2, 5}) {
    std::vector<uint64_t> seen;
    const absl::Status status =
        (*PackedFile::Open(path_))->VerifyAll(threads, [&seen](uint64_t done, uint64_t total) {
          EXPECT_EQ(total, 500'000u);
          EXPECT_GT(done, seen.empty() ? 0 : seen.back());
          seen.push_back(done);
        });
    EXPECT_TRUE(status.ok()) << status;
    ASSERT_FALSE(seen.empty());
    EXPECT_EQ(seen.back(), 500'000u);
  }
  for (const size_t i : {123, 124, 130, 499}) file[index.entries[i].offset + 7] = 'y';
  Store(path_, file);
  for (const int threads : {1, 2, 5}) {
    EXPECT_THAT(Message((*PackedFile::Open(path_))->VerifyAll(threads, nullptr)),
                HasSubstr("the tensor \"t123\" has the checksum"));
  }
}

TEST_F(PackedFileTest, RefusesWhatIsNoPackedFile) {
  EXPECT_FALSE(IsPackedFile(path_));
  EXPECT_EQ(PackedFile::Open(path_).status().code(), absl::StatusCode::kNotFound);
  for (const std::string bytes : {"", "CONC", "{\"model_type\": 1}"}) {
    Store(path_, bytes);
    EXPECT_FALSE(IsPackedFile(path_));
    EXPECT_EQ(PackedFile::Open(path_).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(IsPackedFile(dir_.path()));
  Store(path_, SmallFile().substr(0, 100));
  EXPECT_TRUE(IsPackedFile(path_));
  EXPECT_THAT(Message(PackedFile::Open(path_).status()),
              HasSubstr(path_.string() + " is cut short: it has 100 bytes, its header takes 128"));
  const fs::path pipe = dir_.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_FALSE(IsPackedFile(pipe));  // without waiting for a writer
}

TEST_F(PackedWriterTest, LeavesThePathAloneUntilCommit) {
  {
    const auto writer = PackedWriter::Create(path_, SmallIndex(), SmallTexts(), false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    const std::string temporary = "m.packed.partial." + std::to_string(getpid());
    EXPECT_THAT(NamesIn(dir_.path()), ElementsAre(temporary));
    EXPECT_EQ(fs::file_size(dir_.path() / temporary), SmallIndex().file_bytes);
    EXPECT_FALSE(IsPackedFile(dir_.path() / temporary));
    WriteTensor(**writer, 0);
  }
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre());
}

TEST_F(PackedWriterTest, GivesTheFileTheModeOfAnOrdinaryOne) {
  const mode_t before = umask(027);
  ASSERT_TRUE(Pack(path_).ok());
  umask(before);
  EXPECT_EQ(fs::status(path_).permissions(), fs::perms{0640});
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre("m.packed"));
}

TEST_F(PackedWriterTest, TakesAnotherNameBesideThatOfAKilledProcess) {
  const fs::path left = path_.string() + ".partial." + std::to_string(getpid());
  Store(left, "left");
  EXPECT_TRUE(Pack(path_).ok());
  EXPECT_EQ(Read(path_), SmallFile());
  EXPECT_EQ(Read(left), "left");
}

TEST_F(PackedWriterTest, ReplacesOnlyWhenItMay) {
  Store(path_, "old");
  const absl::Status status = Pack(path_);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(path_.string() + " exists"), HasSubstr("replaced")));
  EXPECT_EQ(Read(path_), "old");
  EXPECT_TRUE(Pack(path_, true).ok());
  EXPECT_EQ(Read(path_), SmallFile());
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre("m.packed"));
}

TEST_F(PackedWriterTest, DoesNotReplaceWhatAppearedMeanwhile) {
  {
    const auto writer = PackedWriter::Create(path_, SmallIndex(), SmallTexts(), false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    Store(path_, "theirs");
    EXPECT_EQ((*writer)->Commit().code(), absl::StatusCode::kAlreadyExists);
  }
  EXPECT_EQ(Read(path_), "theirs");
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre("m.packed"));
}

TEST_F(PackedWriterTest, RefusesAPlaceWhereItCannotWrite) {
  const absl::Status folder = Pack(dir_.path(), true);
  EXPECT_THAT(Message(folder), HasSubstr("is a folder; give the name of a file"));
  const std::filesystem::path pipe = dir_.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(Message(Pack(pipe, true)), HasSubstr("is no regular file"));
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  const absl::Status missing = Pack(dir_.path() / "none" / "m.packed");
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(missing), AllOf(HasSubstr("none"), HasSubstr("make the folder first")));
}

TEST_F(PackedWriterTest, RefusesAnIndexThatCouldNotBeRead) {
  PackedIndex index = SmallIndex();
  index.entries[1].name = index.entries[0].name;
  const absl::Status status = PackedWriter::Create(path_, index, SmallTexts(), false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), HasSubstr("cannot pack " + path_.string() + ": "));
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre());
}

TEST_F(PackedWriterTest, CommitsNoErrorsThatCouldNotBeRead) {
  for (const double sum : {HUGE_VAL, std::nan(""), -1.0}) {
    const auto writer = PackedWriter::Create(path_, SmallIndex(), SmallTexts(), false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    (*writer)->SetErrors(0, sum, 1);
    const absl::Status status = (*writer)->Commit();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("has a sum of squares of"));
    EXPECT_FALSE(fs::exists(path_));
  }
}

TEST_F(PackedWriterTest, TellsAFileSystemThatIsTooSmallBeforeItWrites) {
  PackedLayout layout(std::string(64, '0'), "f32");
  PackedEntry entry = SmallIndex().entries[0];
  entry.bytes = uint64_t{1} << 50;
  layout.AddEntry(entry);
  const absl::Status status =
      PackedWriter::Create(path_, std::move(layout).Finish(), {}, false).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), AllOf(HasSubstr(path_.string() + " takes 1024 TiB, but its file "
                                                                "system has "),
                                     HasSubstr(" free; make room there or write to another")));
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre());
}

// A limit of file sizes takes the place of a disk that is full.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(getrlimit(RLIMIT_FSIZE, &before_), 0);
    const rlimit limit = {bytes, before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit before_ = {};
  void (*handler_)(int);
};

TEST_F(PackedWriterTest, TellsThatTheFileGetsNoRoom) {
  {
    const FileSizeLimit limit(5000);
    const absl::Status status = Pack(path_);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(Message(status), AllOf(HasSubstr("cannot make room for " + path_.string()),
                                       HasSubstr("raise the limit of file sizes (ulimit -f)")));
  }
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre());
}

TEST_F(PackedWriterTest, TellsThatATensorCannotBeWritten) {
  {
    const auto writer = PackedWriter::Create(path_, SmallIndex(), SmallTexts(), false);
    ASSERT_TRUE(writer.ok()) << writer.status();
    const FileSizeLimit limit(8200);  // the last tensor's first 8 bytes: a short write comes first
    const absl::Status status = (*writer)->Write(2, 0, BytesOfText(std::string(54, 'x')));
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(Message(status), AllOf(HasSubstr("cannot write " + path_.string()),
                                       HasSubstr("write to another file system")));
  }
  EXPECT_THAT(NamesIn(dir_.path()), ElementsAre());
}

TEST_F(PackedWriterTest, RefusesBytesOutsideTheirTensor) {
  const auto writer = PackedWriter::Create(path_, SmallIndex(), SmallTexts(), false);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_DEATH((void)(*writer)->Write(1, 20, BytesOfText("12345")), "check failed");
  EXPECT_DEATH((void)(*writer)->Write(3, 0, {}), "check failed");
}

}  // namespace
}  // namespace conclave::weights
