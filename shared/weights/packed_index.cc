#include "shared/weights/packed_index.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "shared/base/check.h"
#include "shared/base/crc32c.h"
#include "shared/base/status_macros.h"

namespace conclave::weights {
namespace {

constexpr std::string_view kMagic = "CONCLAVE";
constexpr char kRemedy[] = "copy or pack it again";

// Offsets of the header's fields.
constexpr size_t kVersionAt = 8;
constexpr size_t kHeaderChecksumAt = 12;
constexpr size_t kFileBytesAt = 16;
constexpr size_t kTableOffsetAt = 24;
constexpr size_t kTableBytesAt = 32;
constexpr size_t kTableChecksumAt = 40;
constexpr size_t kPageBytesAt = 44;
constexpr size_t kDataOffsetAt = 48;
constexpr size_t kFingerprintAt = 56;
constexpr size_t kFingerprintBytes = 32;
constexpr size_t kNumericsAt = kFingerprintAt + kFingerprintBytes;
constexpr size_t kReservedAt = kNumericsAt + kMaxPackedNumericsBytes + 1;
static_assert(kReservedAt + 8 == kPackedHeaderBytes);

// What the table takes besides names.
constexpr uint64_t kCountsBytes = 4 + 4;
constexpr uint64_t kTextBytes = 2 + 8 + 8 + 4;
constexpr uint64_t EntryBytes(uint32_t version) {
  return 2 + 1 + 1 + 2 + 4 * 8 + 4 + (version >= 3 ? 2 * 8 : 0);
}

std::span<const std::byte> AsBytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

template <typename T>
void Put(std::string& bytes, size_t at, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    bytes[at + i] = static_cast<char>(static_cast<uint64_t>(value) >> (8 * i));
  }
}

template <typename T>
void Append(std::string& bytes, T value) {
  bytes.resize(bytes.size() + sizeof(T));
  Put(bytes, bytes.size() - sizeof(T), value);
}

void AppendName(std::string& bytes, std::string_view name) {
  CONCLAVE_CHECK(name.size() <= kMaxPackedNameBytes);
  Append(bytes, static_cast<uint16_t>(name.size()));
  bytes += name;
}

template <typename T>
T Get(std::span<const std::byte> bytes, size_t at) {
  uint64_t value = 0;
  for (size_t i = sizeof(T); i-- > 0;) value = value << 8 | static_cast<uint64_t>(bytes[at + i]);
  return static_cast<T>(value);
}

// Reads fields one after the other. Past the end everything is zero or empty, and `ok` false.
class TableReader {
 public:
  explicit TableReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  bool ok() const { return ok_; }
  size_t left() const { return rest_.size(); }

  template <typename T>
  T Next() {
    if (!Has(sizeof(T))) return 0;
    const T value = Get<T>(rest_, 0);
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }

  std::string NextName() {
    const size_t size = Next<uint16_t>();
    if (!Has(size)) return "";
    std::string name(reinterpret_cast<const char*>(rest_.data()), size);
    rest_ = rest_.subspan(size);
    return name;
  }

 private:
  bool Has(size_t size) {
    ok_ = ok_ && size <= rest_.size();
    return ok_;
  }

  std::span<const std::byte> rest_;
  bool ok_ = true;
};

std::string SerialiseTable(const PackedIndex& index) {
  std::string table;
  table.reserve(index.TableBytes());
  Append(table, static_cast<uint32_t>(index.texts.size()));
  Append(table, static_cast<uint32_t>(index.entries.size()));
  for (const PackedText& text : index.texts) {
    AppendName(table, text.name);
    Append(table, text.offset);
    Append(table, text.bytes);
    Append(table, text.checksum);
  }
  for (const PackedEntry& entry : index.entries) {
    AppendName(table, entry.name);
    Append(table, static_cast<uint8_t>(entry.order));
    Append(table, entry.type);
    Append(table, entry.group);
    for (const uint64_t value : {entry.rows, entry.columns, entry.offset, entry.bytes}) {
      Append(table, value);
    }
    Append(table, entry.checksum);
    if (index.version < 3) continue;
    Append(table, std::bit_cast<uint64_t>(entry.squared_errors));
    Append(table, std::bit_cast<uint64_t>(entry.squared_weights));
  }
  return table;
}

// The header's, which counts its own field as zero.
uint32_t HeaderChecksum(std::span<const std::byte> header) {
  uint32_t crc = Crc32c(header.first(kHeaderChecksumAt));
  crc = ExtendCrc32c(crc, std::array<std::byte, 4>{});
  return ExtendCrc32c(crc, header.first(kPackedHeaderBytes).subspan(kHeaderChecksumAt + 4));
}

// Fills `index` with texts and entries, as they are told; empty, or what is wrong.
std::string ReadTable(std::span<const std::byte> table, PackedIndex& index) {
  TableReader reader(table);
  const uint64_t num_texts = reader.Next<uint32_t>();
  const uint64_t num_entries = reader.Next<uint32_t>();
  // A name has a byte at least. Bounds what is reserved by what is there.
  const uint64_t least =
      num_texts * (kTextBytes + 1) + num_entries * (EntryBytes(index.version) + 1);
  if (!reader.ok() || least > reader.left()) {
    return absl::StrCat("its table of ", table.size(), " bytes cannot hold the ", num_texts,
                        " texts and ", num_entries, " tensors that it tells of");
  }
  index.texts.resize(num_texts);
  for (PackedText& text : index.texts) {
    text.name = reader.NextName();
    text.offset = reader.Next<uint64_t>();
    text.bytes = reader.Next<uint64_t>();
    text.checksum = reader.Next<uint32_t>();
  }
  index.entries.resize(num_entries);
  for (PackedEntry& entry : index.entries) {
    entry.name = reader.NextName();
    entry.order = static_cast<PackedEntry::Order>(reader.Next<uint8_t>());
    entry.type = reader.Next<uint8_t>();
    entry.group = reader.Next<uint16_t>();
    for (uint64_t* field : {&entry.rows, &entry.columns, &entry.offset, &entry.bytes}) {
      *field = reader.Next<uint64_t>();
    }
    entry.checksum = reader.Next<uint32_t>();
    if (index.version < 3) continue;
    entry.squared_errors = std::bit_cast<double>(reader.Next<uint64_t>());
    entry.squared_weights = std::bit_cast<double>(reader.Next<uint64_t>());
  }
  if (!reader.ok()) return absl::StrCat("its table ends before all that it tells of");
  if (reader.left() > 0) {
    return absl::StrCat("its table has ", reader.left(), " bytes after the last tensor's");
  }
  return "";
}

absl::Status Damaged(std::string_view path, const std::string& what) {
  return absl::DataLossError(absl::StrCat(std::string(path), " is damaged: ", what, "; ", kRemedy));
}

absl::Status CutShort(std::string_view path, uint64_t file_bytes, const std::string& wanted) {
  return absl::DataLossError(absl::StrCat(std::string(path), " is cut short: it has ", file_bytes,
                                          " bytes, ", wanted, "; ", kRemedy));
}

std::string ChecksumProblem(const char* what, uint32_t said, uint32_t found) {
  if (said == found) return "";
  return absl::StrCat("the checksum of its ", what, " is ", absl::Hex(found, absl::kZeroPad8),
                      ", wanted ", absl::Hex(said, absl::kZeroPad8));
}

// Of the file that `bytes` begins: that it is packed, of a version that is read, and whole to the
// end of the header. The version is told before checksums are believed: another one may have
// others.
absl::Status CheckBeginning(std::string_view path, std::span<const std::byte> bytes,
                            uint64_t file_bytes) {
  if (!LooksPacked(bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(path), " is no packed file: it does not begin with \"",
                     std::string(kMagic), "\"; give a file that conclave has packed"));
  }
  if (bytes.size() < kHeaderChecksumAt) {
    return CutShort(path, file_bytes, absl::StrCat("its header takes ", kPackedHeaderBytes));
  }
  const auto version = Get<uint32_t>(bytes, kVersionAt);
  if (version < kOldestPackedVersion || version > kPackedVersion) {
    return absl::UnimplementedError(absl::StrCat(
        std::string(path), " has version ", version,
        " of the packed format, this conclave reads versions ", kOldestPackedVersion, " to ",
        kPackedVersion, "; ", version > kPackedVersion ? "use a newer conclave or " : "",
        "pack the model again"));
  }
  if (bytes.size() < kPackedHeaderBytes) {
    return CutShort(path, file_bytes, absl::StrCat("its header takes ", kPackedHeaderBytes));
  }
  return absl::OkStatus();
}

// What an intact header says that this version does not; empty when there is none.
std::string HeaderProblem(std::span<const std::byte> header) {
  const auto wrong = [](const char* field, uint64_t found, uint64_t wanted) {
    return absl::StrCat("its ", field, " is ", found, ", wanted ", wanted);
  };
  const auto table_offset = Get<uint64_t>(header, kTableOffsetAt);
  if (table_offset != kPackedHeaderBytes) {
    return wrong("table's offset", table_offset, kPackedHeaderBytes);
  }
  const auto page_bytes = Get<uint32_t>(header, kPageBytesAt);
  if (page_bytes != kPackedPageBytes) return wrong("page size", page_bytes, kPackedPageBytes);
  const auto reserved = Get<uint64_t>(header, kReservedAt);
  return reserved != 0 ? wrong("reserved field", reserved, 0) : "";
}

// Fills in what the header tells; empty, or what is wrong with it.
std::string ReadHeader(std::span<const std::byte> header, PackedIndex& index) {
  if (std::string problem = HeaderProblem(header); !problem.empty()) return problem;
  index.version = Get<uint32_t>(header, kVersionAt);
  index.file_bytes = Get<uint64_t>(header, kFileBytesAt);
  index.data_offset = Get<uint64_t>(header, kDataOffsetAt);
  const std::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  const std::string_view raw_fingerprint = text.substr(kFingerprintAt, kFingerprintBytes);
  index.fingerprint =
      absl::BytesToHexString(absl::string_view(raw_fingerprint.data(), raw_fingerprint.size()));
  const std::string_view label = text.substr(kNumericsAt, kMaxPackedNumericsBytes + 1);
  index.numerics = label.substr(0, label.find('\0'));
  // Padding beside zeros would be lost by reading and writing.
  if (label.find_first_not_of('\0', index.numerics.size()) != std::string_view::npos) {
    return absl::StrCat("its numerics class ", internal::QuotedName(index.numerics),
                        " is followed by bytes other than zero");
  }
  return "";
}

}  // namespace

std::string PackedIndex::Serialise() const {
  const std::string table = SerialiseTable(*this);
  const std::string raw_fingerprint = absl::HexStringToBytes(fingerprint);
  CONCLAVE_CHECK(raw_fingerprint.size() == kFingerprintBytes);
  CONCLAVE_CHECK(numerics.size() <= kMaxPackedNumericsBytes);

  std::string bytes(kPackedHeaderBytes, '\0');
  bytes.replace(0, kMagic.size(), kMagic);
  Put(bytes, kVersionAt, version);
  Put(bytes, kFileBytesAt, file_bytes);
  Put(bytes, kTableOffsetAt, kPackedHeaderBytes);
  Put(bytes, kTableBytesAt, static_cast<uint64_t>(table.size()));
  Put(bytes, kTableChecksumAt, Crc32c(AsBytes(table)));
  Put(bytes, kPageBytesAt, static_cast<uint32_t>(kPackedPageBytes));
  Put(bytes, kDataOffsetAt, data_offset);
  bytes.replace(kFingerprintAt, kFingerprintBytes, raw_fingerprint);
  bytes.replace(kNumericsAt, numerics.size(), numerics);
  Put(bytes, kHeaderChecksumAt, HeaderChecksum(AsBytes(bytes)));
  return bytes + table;
}

uint64_t PackedIndex::TableBytes() const {
  uint64_t bytes = kCountsBytes;
  for (const PackedText& text : texts) bytes += kTextBytes + text.name.size();
  for (const PackedEntry& entry : entries) bytes += EntryBytes(version) + entry.name.size();
  return bytes;
}

bool LooksPacked(std::span<const std::byte> bytes) {
  const auto magic = AsBytes(kMagic);
  return bytes.size() >= magic.size() && std::equal(magic.begin(), magic.end(), bytes.begin());
}

absl::StatusOr<PackedIndex> ParsePackedIndex(std::string_view path,
                                             std::span<const std::byte> bytes,
                                             uint64_t file_bytes) {
  RETURN_IF_ERROR(CheckBeginning(path, bytes, file_bytes));
  const auto header = bytes.first(kPackedHeaderBytes);
  std::string problem =
      ChecksumProblem("header", Get<uint32_t>(header, kHeaderChecksumAt), HeaderChecksum(header));
  PackedIndex index;
  if (problem.empty()) problem = ReadHeader(header, index);
  if (!problem.empty()) return Damaged(path, problem);

  if (file_bytes < index.file_bytes) {
    return CutShort(path, file_bytes, absl::StrCat("its header says ", index.file_bytes));
  }
  if (file_bytes > index.file_bytes) {
    return Damaged(
        path, absl::StrCat("it has ", file_bytes, " bytes, its header says ", index.file_bytes));
  }
  const auto table_bytes = Get<uint64_t>(header, kTableBytesAt);
  if (table_bytes > bytes.size() - kPackedHeaderBytes) {
    return Damaged(path, absl::StrCat("its table has ", table_bytes, " bytes, only ",
                                      bytes.size() - kPackedHeaderBytes, " follow the header"));
  }
  const auto table = bytes.subspan(kPackedHeaderBytes, table_bytes);
  problem = ChecksumProblem("table", Get<uint32_t>(header, kTableChecksumAt), Crc32c(table));
  if (problem.empty()) problem = ReadTable(table, index);
  if (problem.empty()) problem = index.Problem();
  if (!problem.empty()) return Damaged(path, problem);
  return index;
}

}  // namespace conclave::weights
