#include "shared/weights/packed_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>

#include "tests/weights/packed_fixture.h"

namespace conclave::weights {
namespace {

using ::conclave::testing::BytesOfText;
using ::conclave::testing::GetNumber;
using ::conclave::testing::PutNumber;
using ::conclave::testing::SignAll;
using ::conclave::testing::SignHeader;
using ::conclave::testing::SmallFile;
using ::conclave::testing::SmallIndex;
using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

absl::StatusOr<PackedIndex> Parse(std::string_view file) {
  return ParsePackedIndex("dir/m.packed", BytesOfText(file), file.size());
}

TEST(PackedIndexTest, ReadsWhatItWrote) {
  const PackedIndex index = SmallIndex();
  EXPECT_EQ(index.Problem(), "");
  const std::string bytes = index.Serialise();
  EXPECT_EQ(bytes.size(), kPackedHeaderBytes + index.TableBytes());
  // The table alone is enough, whatever follows.
  const auto read = ParsePackedIndex("f", BytesOfText(bytes), index.file_bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, index);
  EXPECT_EQ(read->Serialise(), bytes);
}

TEST(PackedIndexTest, ReadsAFileWithoutAnything) {
  const PackedIndex index = PackedLayout(std::string(64, 'f'), "f32").Finish();
  EXPECT_EQ(index.file_bytes, kPackedPageBytes);
  EXPECT_EQ(*ParsePackedIndex("f", BytesOfText(index.Serialise()), index.file_bytes), index);
}

TEST(PackedIndexTest, ReadsAsManyTensorsAsTheLargestModelsHave) {
  PackedLayout layout(std::string(64, '0'), "int4");
  for (int i = 0; i < 45'000; ++i) {
    PackedEntry entry;
    entry.name = "model.layers.7.mlp.experts." + std::to_string(i) + ".down_proj.weight";
    entry.type = 4;
    entry.group = 128;
    entry.rows = entry.columns = 7168;
    entry.bytes = uint64_t{30} << 20;
    layout.AddEntry(entry);
  }
  const PackedIndex index = std::move(layout).Finish();
  EXPECT_GT(index.file_bytes, uint64_t{1} << 40);
  const auto read = ParsePackedIndex("f", BytesOfText(index.Serialise()), index.file_bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, index);
}

// docs/packed-format.md, field by field.
TEST(PackedIndexTest, LiesWhereTheFormatSays) {
  const std::string file = SmallFile();
  EXPECT_EQ(file.substr(0, 8), "CONCLAVE");
  EXPECT_EQ(GetNumber(file, 8, 4), 3u);
  EXPECT_EQ(GetNumber(file, 16, 8), file.size());
  EXPECT_EQ(GetNumber(file, 24, 8), 128u);
  const uint64_t table_bytes = GetNumber(file, 32, 8);
  EXPECT_EQ(GetNumber(file, 40, 4), Crc32c(BytesOfText(file).subspan(128, table_bytes)));
  EXPECT_EQ(GetNumber(file, 44, 4), 4096u);
  EXPECT_EQ(GetNumber(file, 48, 8), 4096u);
  EXPECT_EQ(file.substr(56, 32), std::string(31, '\0') + "\xa7");
  EXPECT_EQ(file.substr(88, 32), "int8+int4" + std::string(23, '\0'));
  EXPECT_EQ(file.substr(120, 8), std::string(8, '\0'));
  EXPECT_EQ(GetNumber(file, 128, 4), 3u);
  EXPECT_EQ(GetNumber(file, 132, 4), 3u);
  EXPECT_EQ(GetNumber(file, 136, 2), 11u);
  EXPECT_EQ(file.substr(138, 11), "config.json");
  const uint64_t text = GetNumber(file, 149, 8);
  EXPECT_EQ(text, (128 + table_bytes + 7) / 8 * 8);
  EXPECT_EQ(GetNumber(file, 157, 8), 9u);
  EXPECT_EQ(GetNumber(file, 165, 4), Crc32c(BytesOfText("{\"a\": 1}\n")));
  EXPECT_EQ(file.substr(text, 9), "{\"a\": 1}\n");

  // The first tensor's sums: its fields follow a name of 44 bytes, after those of the texts.
  const size_t first = 136 + 3 * 22 + 11 + 22 + 40 + 2 + 44;
  EXPECT_EQ(GetNumber(file, first, 1), 1u);
  EXPECT_EQ(GetNumber(file, first + 40, 8), std::bit_cast<uint64_t>(0.25));
  EXPECT_EQ(GetNumber(file, first + 48, 8), std::bit_cast<uint64_t>(3.0));

  const size_t last = 128 + table_bytes - 56;  // the last tensor's fields after its name
  EXPECT_EQ(file.substr(last - 27, 2), std::string("\x19\0", 2));
  EXPECT_EQ(file.substr(last - 25, 25), "model.embed_tokens.weight");
  EXPECT_EQ(GetNumber(file, last, 1), 2u);
  EXPECT_EQ(GetNumber(file, last + 1, 1), 2u);
  EXPECT_EQ(GetNumber(file, last + 2, 2), 0u);
  EXPECT_EQ(GetNumber(file, last + 4, 8), 9u);
  EXPECT_EQ(GetNumber(file, last + 12, 8), 3u);
  EXPECT_EQ(GetNumber(file, last + 20, 8), 8192u);
  EXPECT_EQ(GetNumber(file, last + 28, 8), 54u);
  EXPECT_EQ(GetNumber(file, last + 36, 4), Crc32c(BytesOfText(file).subspan(8192, 54)));
  EXPECT_EQ(GetNumber(file, last + 40, 8), 0u);
  EXPECT_EQ(GetNumber(file, last + 48, 8), 0u);
  EXPECT_EQ(file.size(), 8192u + 54u);
}

// Version 2: the same without the sums.
TEST(PackedIndexTest, ReadsTheVersionBefore) {
  PackedIndex index = SmallIndex();
  index.entries[0].squared_errors = index.entries[0].squared_weights = 0;
  const uint64_t table_bytes = index.TableBytes();
  index.version = 2;
  EXPECT_EQ(index.TableBytes(), table_bytes - 3 * 16);
  for (PackedText& text : index.texts) text.offset -= 48;
  const std::string bytes = index.Serialise();
  EXPECT_EQ(GetNumber(bytes, 8, 4), 2u);
  const auto read = ParsePackedIndex("f", BytesOfText(bytes), index.file_bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, index);
  index.entries[0].type = 5;
  EXPECT_THAT(
      Message(ParsePackedIndex("f", BytesOfText(index.Serialise()), index.file_bytes).status()),
      HasSubstr("has the type 5, wanted 1 to 4"));
}

// A file that was written by another program, from docs/packed-format.md alone: files of version 2
// stay readable as long as the version is.
TEST(PackedIndexTest, ReadsAStoredFile) {
  const std::filesystem::path path =
      std::filesystem::path(CONCLAVE_SOURCE_DIR) / "tests/fuzz/corpus/packed_index/three_tensors";
  std::ifstream stream(path, std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  const auto index = ParsePackedIndex("f", BytesOfText(file), 8192 + 30);
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(index->fingerprint, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
  EXPECT_EQ(index->numerics, "int8+int4");
  EXPECT_EQ(index->data_offset, 4096u);
  ASSERT_EQ(index->texts.size(), 2u);
  EXPECT_EQ(index->texts[0], (PackedText{"config.json", 416, 2, Crc32c(BytesOfText("{}"))}));
  EXPECT_EQ(index->texts[1], (PackedText{"a/b.jinja", 424, 0, 0}));
  ASSERT_EQ(index->entries.size(), 3u);
  const std::string matrix(1088, 'm'), vector(16, 'v'), table(30, 'e');
  using Order = PackedEntry::Order;
  EXPECT_EQ(index->entries[0],
            (PackedEntry{"model.layers.0.mlp.experts.0.down_proj.weight", Order::kPanels, 4, 128,
                         16, 128, 4096, 1088, Crc32c(BytesOfText(matrix))}));
  EXPECT_EQ(index->entries[1], (PackedEntry{"model.norm.weight", Order::kVector, 1, 0, 4, 1, 5184,
                                            16, Crc32c(BytesOfText(vector))}));
  EXPECT_EQ(index->entries[2], (PackedEntry{"model.embed_tokens.weight", Order::kRowMajor, 2, 0, 3,
                                            5, 8192, 30, Crc32c(BytesOfText(table))}));
  EXPECT_EQ(index->Serialise(), file);
}

// Likewise of version 3, with zero points and with what packing did to the weights.
TEST(PackedIndexTest, ReadsAStoredFileOfVersion3) {
  const std::filesystem::path path =
      std::filesystem::path(CONCLAVE_SOURCE_DIR) / "tests/fuzz/corpus/packed_index/zero_points";
  std::ifstream stream(path, std::ios::binary);
  const std::string file{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  const auto index = ParsePackedIndex("f", BytesOfText(file), 4096 + 1152 + 16);
  ASSERT_TRUE(index.ok()) << index.status();
  ASSERT_EQ(index->entries.size(), 2u);
  const std::string matrix(1152, 'm');
  EXPECT_EQ(index->entries[0],
            (PackedEntry{"model.layers.0.mlp.experts.0.down_proj.weight",
                         PackedEntry::Order::kPanels, kPackedInt4WithZeros, 64, 16, 128, 4096, 1152,
                         Crc32c(BytesOfText(matrix)), 0.5, 8.0}));
  EXPECT_EQ(index->Serialise(), file);
}

TEST(PackedIndexTest, RefusesEveryFlippedBitOfHeaderAndTable) {
  std::string file = SmallFile();
  ASSERT_TRUE(Parse(file).ok());
  const size_t end = kPackedHeaderBytes + SmallIndex().TableBytes();
  for (size_t bit = 0; bit < 8 * end; ++bit) {
    const char before = file[bit / 8];
    file[bit / 8] = static_cast<char>(before ^ (1 << bit % 8));
    const absl::Status status = Parse(file).status();
    ASSERT_FALSE(status.ok()) << "bit " << bit;
    ASSERT_THAT(Message(status), HasSubstr("dir/m.packed ")) << "bit " << bit;
    file[bit / 8] = before;
  }
}

TEST(PackedIndexTest, RefusesAFileCutShortAnywhere) {
  const std::string file = SmallFile();
  for (size_t size = 0; size < file.size(); ++size) {
    const absl::Status status = Parse(std::string_view(file).substr(0, size)).status();
    if (size < 8) {
      ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << size;
      continue;
    }
    ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << size;
    ASSERT_THAT(Message(status),
                HasSubstr("is cut short: it has " + std::to_string(size) + " bytes, its header"));
  }
  EXPECT_EQ(Message(Parse(file.substr(0, 5000)).status()),
            "dir/m.packed is cut short: it has 5000 bytes, its header says 8246; copy or pack it "
            "again");
}

TEST(PackedIndexTest, RefusesBytesAfterTheEnd) {
  const absl::Status status = Parse(SmallFile() + "x").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Message(status), HasSubstr("it has 8247 bytes, its header says 8246"));
}

TEST(PackedIndexTest, TellsAnotherVersionBeforeItBelievesAnyChecksum) {
  std::string file = SmallFile();
  PutNumber(file, 8, 4, 7);
  const absl::Status newer = Parse(file).status();
  EXPECT_EQ(newer.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(
      Message(newer),
      "dir/m.packed has version 7 of the packed format, this conclave reads versions 2 to 3; use "
      "a newer conclave or pack the model again");
  EXPECT_EQ(Parse(file.substr(0, 12)).status().code(), absl::StatusCode::kUnimplemented);
  PutNumber(file, 8, 4, 0);
  EXPECT_THAT(
      Message(Parse(file).status()),
      AllOf(HasSubstr("version 0"), HasSubstr("reads versions 2 to 3; pack the model again")));
}

TEST(PackedIndexTest, TellsWhatIsNoPackedFile) {
  EXPECT_TRUE(LooksPacked(BytesOfText("CONCLAVE")));
  EXPECT_FALSE(LooksPacked(BytesOfText("CONCLAV")));
  for (const std::string file : {"", "CONCLAV", "conclave........", "{\"a\": 1}"}) {
    const absl::Status status = Parse(file).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), HasSubstr("is no packed file: it does not begin with"));
  }
}

// A header whose checksum is right and one field of which is not.
struct BadField {
  const char* name;
  size_t at, size;
  uint64_t value;
  const char* message;
};

class RefusesField : public ::testing::TestWithParam<BadField> {};

TEST_P(RefusesField, NamingIt) {
  std::string file = SmallFile();
  PutNumber(file, GetParam().at, GetParam().size, GetParam().value);
  SignHeader(file);
  const absl::Status status = Parse(file).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Message(status), HasSubstr(GetParam().message));
  EXPECT_THAT(Message(status), HasSubstr("; copy or pack it again"));
}

constexpr uint64_t kHuge = uint64_t{1} << 63;

INSTANTIATE_TEST_SUITE_P(
    Header, RefusesField,
    ::testing::Values(
        BadField{"FileSize", 16, 8, 8245, "has 8246 bytes, its header says 8245"},
        BadField{"FileSizeHuge", 16, 8, kHuge, "is cut short: it has 8246 bytes, its header says"},
        BadField{"FileSizeMost", 16, 8, UINT64_MAX, "says 18446744073709551615"},
        BadField{"TableOffset", 24, 8, 136, "its table's offset is 136, wanted 128"},
        BadField{"TableOffsetHuge", 24, 8, kHuge, "its table's offset is 9223372036854775808"},
        BadField{"TableEmpty", 32, 8, 0, "the checksum of its table is 00000000, wanted "},
        BadField{"TableBeyond", 32, 8, 8119, "its table has 8119 bytes, only 8118 follow"},
        BadField{"TableHuge", 32, 8, UINT64_MAX, "has 18446744073709551615 bytes, only"},
        BadField{"TableChecksum", 40, 4, 1, "the checksum of its table is"},
        BadField{"PageSize", 44, 4, 16384, "its page size is 16384, wanted 4096"},
        BadField{"DataOffset", 48, 8, 8192, "its tensors begin at 8192, wanted 4096"},
        BadField{"DataOffsetHuge", 48, 8, kHuge, "its tensors begin at 9223372036854775808"},
        BadField{"NumericsEmpty", 88, 8, 0, "is followed by bytes other than zero"},
        BadField{"NumericsControl", 89, 1, 7, "its numerics class is \"i?t8+int4\", wanted"},
        BadField{"NumericsLatin", 88, 1, 0xe9, "its numerics class is \"?nt8+int4\", wanted"},
        BadField{"NumericsPadding", 119, 1, 1, "is followed by bytes other than zero"},
        BadField{"Reserved", 127, 1, 0x80, "its reserved field is 9223372036854775808, wanted 0"}),
    [](const auto& info) { return info.param.name; });

TEST(PackedIndexTest, RefusesANumericsClassWithoutEnd) {
  std::string file = SmallFile();
  file.replace(88, 32, std::string(32, 'x'));
  SignHeader(file);
  EXPECT_THAT(Message(Parse(file).status()), HasSubstr("wanted 1 to 31 bytes"));
  file.replace(88, 32, std::string(32, '\0'));
  SignHeader(file);
  EXPECT_THAT(Message(Parse(file).status()), HasSubstr("its numerics class is \"\", wanted 1"));
}

// Counts are bounded by the table before anything is reserved for them.
TEST(PackedIndexTest, RefusesCountsThatTheTableCannotHold) {
  for (const size_t at : {128, 132}) {
    for (const uint64_t count : {uint64_t{20}, uint64_t{UINT32_MAX}}) {
      std::string file = SmallFile();
      PutNumber(file, at, 4, count);
      SignAll(file);
      EXPECT_THAT(Message(Parse(file).status()), HasSubstr("bytes cannot hold the "));
    }
  }
  std::string file = SmallFile();
  PutNumber(file, 132, 4, 2);
  SignAll(file);
  EXPECT_THAT(Message(Parse(file).status()), HasSubstr("bytes after the last tensor's"));
  PutNumber(file, 132, 4, 4);
  SignAll(file);
  EXPECT_THAT(Message(Parse(file).status()), HasSubstr("its table ends before all that it"));
}

TEST(PackedIndexTest, RefusesNamesOfMoreThan255Bytes) {
  for (const size_t size : {255, 256}) {
    PackedLayout layout(std::string(64, '0'), "f32");
    PackedEntry entry = SmallIndex().entries[0];
    entry.name = std::string(size, 'a');
    layout.AddEntry(entry);
    const std::string problem = std::move(layout).Finish().Problem();
    if (size == 255) {
      EXPECT_EQ(problem, "");
    } else {
      EXPECT_THAT(problem, HasSubstr("has a name of 256 bytes, wanted at most 255"));
    }
  }
}

TEST(PackedIndexTest, RefusesATableCutShortAnywhere) {
  const std::string file = SmallFile();
  const uint64_t table_bytes = GetNumber(file, 32, 8);
  for (uint64_t size = 0; size < table_bytes; ++size) {
    std::string cut = file;
    PutNumber(cut, 32, 8, size);
    SignAll(cut);
    ASSERT_EQ(Parse(cut).status().code(), absl::StatusCode::kDataLoss) << size;
  }
}

// A table that is intact and says what it must not. Serialise signs whatever it is given.
struct BadTable {
  const char* name;
  std::function<void(PackedIndex&)> damage;
  const char* message;
};

class RefusesTable : public ::testing::TestWithParam<BadTable> {};

TEST_P(RefusesTable, NamingTextOrTensor) {
  PackedIndex index = SmallIndex();
  GetParam().damage(index);
  EXPECT_THAT(index.Problem(), HasSubstr(GetParam().message));
  const absl::Status status =
      ParsePackedIndex("f", BytesOfText(index.Serialise()), index.file_bytes).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Message(status), HasSubstr(GetParam().message));
}

// Names keep the length that they have together, so that nothing moves.
std::string Padded(std::string name, size_t size) {
  name.resize(size, 'x');
  return name;
}

BadTable TextName(const char* test, const std::string& name) {
  return {test, [name](PackedIndex& index) { index.texts[0].name = Padded(name, 11); },
          "has a name that is no path inside a folder"};
}

INSTANTIATE_TEST_SUITE_P(
    Texts, RefusesTable,
    ::testing::Values(
        TextName("Above", "../xxxxx"), TextName("AboveInside", "a/../xx"),
        TextName("Absolute", "/etc/passwd"), TextName("EmptyPart", "a//b"), TextName("Dot", "./a"),
        TextName("FolderOnly", "abcdefghij/"), TextName("AboveAtTheEnd", "abcdefgh/.."),
        BadTable{"NoName", [](PackedIndex& i) { i.texts[0].name = ""; }, "a text has no name"},
        BadTable{"ControlByte", [](PackedIndex& i) { i.texts[0].name[0] = '\x1b'; },
                 "the text \"?onfig.json\" has a name of 11 bytes"},
        BadTable{"TwoOfOneName",
                 [](PackedIndex& i) { i.texts[0].name = i.texts[2].name = Padded("a", 25); },
                 "two texts are named \"axxx"},
        BadTable{"Misplaced", [](PackedIndex& i) { i.texts[0].offset += 8; },
                 "the text \"config.json\" lies at "},
        BadTable{"Misaligned", [](PackedIndex& i) { i.texts[0].offset += 1; }, ", wanted "},
        BadTable{"AtHuge", [](PackedIndex& i) { i.texts[0].offset = kHuge; },
                 "lies at 9223372036854775808"},
        BadTable{"Beyond", [](PackedIndex& i) { i.texts[0].bytes = 9000; },
                 "the text \"config.json\" has 9000 bytes at "},
        BadTable{"Huge", [](PackedIndex& i) { i.texts[0].bytes = kHuge; }, "beyond the file's"},
        BadTable{"Overflow", [](PackedIndex& i) { i.texts[0].bytes = UINT64_MAX - 7; },
                 "beyond the file's"},
        BadTable{"IntoTensors", [](PackedIndex& i) { i.texts[2].bytes = 4096; },
                 "its tensors begin at 4096, wanted 8192"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Names, RefusesTable,
    ::testing::Values(
        BadTable{"Empty",
                 [](PackedIndex& i) { i.entries[1].name += std::exchange(i.entries[0].name, ""); },
                 "a tensor has no name"},
        BadTable{"Newline", [](PackedIndex& i) { i.entries[1].name[5] = '\n'; },
                 "the tensor \"model?norm.weight\" has a name of 17 bytes"},
        BadTable{"Twice",
                 [](PackedIndex& i) { i.entries[1].name = i.entries[2].name = Padded("a", 21); },
                 "two tensors are named \"axxx"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Formats, RefusesTable,
    ::testing::Values(
        BadTable{"TypeZero", [](PackedIndex& i) { i.entries[0].type = 0; },
                 "has the type 0, wanted 1 to 5"},
        BadTable{"TypeSix", [](PackedIndex& i) { i.entries[0].type = 6; }, "has the type 6"},
        BadTable{"ErrorsBelowZero", [](PackedIndex& i) { i.entries[0].squared_errors = -1; },
                 "has a sum of squares of -1, wanted a number from 0 on"},
        BadTable{"WeightsNoNumber", [](PackedIndex& i) { i.entries[0].squared_weights = NAN; },
                 "has a sum of squares of nan"},
        BadTable{"OrderZero", [](PackedIndex& i) { i.entries[0].order = PackedEntry::Order{0}; },
                 "has the order 0, wanted 1 to 3"},
        BadTable{"OrderFour", [](PackedIndex& i) { i.entries[0].order = PackedEntry::Order{4}; },
                 "has the order 4"},
        BadTable{"GroupOfIntegers", [](PackedIndex& i) { i.entries[0].group = 33; },
                 "has groups of 33, wanted 32, 64 or 128 for integers"},
        BadTable{"NoGroup", [](PackedIndex& i) { i.entries[0].group = 0; }, "has groups of 0"},
        BadTable{"GroupOfFloats", [](PackedIndex& i) { i.entries[2].group = 32; },
                 "has groups of 32, wanted 0 for floats"},
        BadTable{"RowMajorIntegers",
                 [](PackedIndex& i) { i.entries[0].order = PackedEntry::Order::kRowMajor; },
                 "is row-major and of integers"},
        BadTable{"VectorOfBf16", [](PackedIndex& i) { i.entries[1].type = 2; },
                 "is a vector of type 2 with 1 columns, wanted type 1"},
        BadTable{"VectorOfTwoColumns", [](PackedIndex& i) { i.entries[1].columns = 2; },
                 "is a vector of type 1 with 2 columns"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Places, RefusesTable,
    ::testing::Values(
        BadTable{"NoRows", [](PackedIndex& i) { i.entries[0].rows = 0; }, "has 0 rows and 7"},
        BadTable{"NoColumns", [](PackedIndex& i) { i.entries[0].columns = 0; }, "and 0 columns"},
        BadTable{"RowsHuge", [](PackedIndex& i) { i.entries[0].rows = uint64_t{1} << 31; },
                 "has 2147483648 rows and 7 columns, wanted 1 to 2147483647"},
        BadTable{"ColumnsHuge", [](PackedIndex& i) { i.entries[2].columns = kHuge; },
                 "and 9223372036854775808 columns"},
        BadTable{"NoBytes", [](PackedIndex& i) { i.entries[0].bytes = 0; }, "has no bytes"},
        BadTable{"OtherBytes", [](PackedIndex& i) { i.entries[2].bytes = 52; },
                 "has 52 bytes, wanted 54 for 9 x 3 elements of type 2"},
        BadTable{"VectorOfOtherBytes", [](PackedIndex& i) { i.entries[1].rows = 7; },
                 "has 24 bytes, wanted 28 for 7 x 1"},
        BadTable{"Beyond", [](PackedIndex& i) { i.entries[2].offset += 64; },
                 "has 54 bytes at 8256, beyond the file's 8246"},
        BadTable{"AtHuge", [](PackedIndex& i) { i.entries[0].offset = kHuge; },
                 "has 100 bytes at 9223372036854775808, beyond"},
        BadTable{"BytesHuge", [](PackedIndex& i) { i.entries[0].bytes = kHuge; },
                 "has 9223372036854775808 bytes at 4096, beyond"},
        BadTable{"Overflow", [](PackedIndex& i) { i.entries[0].bytes = UINT64_MAX - 4095; },
                 "has 18446744073709547520 bytes at 4096, beyond"},
        BadTable{"Misaligned", [](PackedIndex& i) { i.entries[1].offset += 8; },
                 "lies at 4232, wanted a multiple of 64"},
        BadTable{"Overlap", [](PackedIndex& i) { i.entries[0].bytes = 129; },
                 "lies at 4224, but what is before it ends at 4225: out of order or overlapping"},
        BadTable{"InTheTable", [](PackedIndex& i) { i.entries[0].offset = 64; },
                 "lies at 64, but what is before it ends at 4096"},
        BadTable{"Unordered", [](PackedIndex& i) { std::swap(i.entries[0], i.entries[1]); },
                 "the tensor \"model.norm.weight\" lies at 4224, wanted at most 4096"},
        BadTable{"UnorderedLater", [](PackedIndex& i) { i.entries[2].offset = 4096; },
                 "lies at 4096, but what is before it ends at 4248"},
        BadTable{"AfterAGap",
                 [](PackedIndex& i) {
                   i.entries[2].offset += 4096;
                   i.file_bytes += 4096;
                 },
                 "lies at 12288, wanted at most 8192"},
        BadTable{"NotToTheEnd", [](PackedIndex& i) { i.file_bytes += 10; },
                 "its last tensor ends at 8246, its header says the file has 8256 bytes"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace conclave::weights
