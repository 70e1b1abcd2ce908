// What a packed index may say: docs/packed-format.md, "What is refused".
#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <unordered_set>

#include "absl/strings/str_cat.h"
#include "shared/weights/packed_index.h"

namespace conclave::weights {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{1} << 62;  // rounding up cannot overflow
constexpr uint64_t kMaxDimension = (uint64_t{1} << 31) - 1;
constexpr size_t kFingerprintDigits = 64;

enum Type : uint8_t { kF32 = 1, kBf16 = 2, kInt8 = 3, kInt4 = 4, kInt4WithZeros = 5 };
static_assert(kInt4WithZeros == kPackedInt4WithZeros);  // the others as kernels::WeightType

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

using internal::QuotedName;

std::string NameProblem(std::string_view what, std::string_view name) {
  if (name.empty()) return absl::StrCat("a ", std::string(what), " has no name");
  if (name.size() <= kMaxPackedNameBytes && IsPrintable(name)) return "";
  return absl::StrCat("the ", std::string(what), " ", QuotedName(name), " has a name of ",
                      name.size(), " bytes, wanted at most ", kMaxPackedNameBytes,
                      " of printable ASCII");
}

// Texts are written to a folder by what unpacks them: nothing may leave it.
bool StaysInFolder(std::string_view name) {
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view component = name.substr(begin, end - begin);
    if (component.empty() || component == "." || component == "..") return false;
    begin = end + 1;
  }
  return true;
}

// `end`: where what lies before it ends; moved to where the text ends.
std::string TextProblem(const PackedText& text, uint64_t file_bytes, uint64_t& end) {
  if (std::string problem = NameProblem("text", text.name); !problem.empty()) return problem;
  const std::string subject = absl::StrCat("the text ", QuotedName(text.name));
  if (!StaysInFolder(text.name)) {
    return absl::StrCat(subject,
                        " has a name that is no path inside a folder, wanted one without leading "
                        "or double \"/\" and without \".\" or \"..\" as a part");
  }
  const uint64_t wanted = internal::RoundUpPacked(end, kPackedTextAlignment);
  if (text.offset != wanted) {
    return absl::StrCat(subject, " lies at ", text.offset, ", wanted ", wanted);
  }
  if (text.offset > file_bytes || text.bytes > file_bytes - text.offset) {
    return absl::StrCat(subject, " has ", text.bytes, " bytes at ", text.offset,
                        ", beyond the file's ", file_bytes);
  }
  end = text.offset + text.bytes;
  return "";
}

std::string FormatProblem(const PackedEntry& entry, uint32_t version) {
  const Type last = version < 3 ? kInt4 : kInt4WithZeros;
  if (entry.type < kF32 || entry.type > last) {
    return absl::StrCat("has the type ", static_cast<int>(entry.type), ", wanted 1 to ",
                        static_cast<int>(last));
  }
  const bool integers = entry.type >= kInt8;
  if (integers ? entry.group != 32 && entry.group != 64 && entry.group != 128 : entry.group != 0) {
    return absl::StrCat("has groups of ", entry.group, ", wanted ",
                        integers ? "32, 64 or 128 for integers" : "0 for floats");
  }
  switch (entry.order) {
    case PackedEntry::Order::kPanels:
      return "";
    case PackedEntry::Order::kRowMajor:
      return integers ? "is row-major and of integers, wanted floats" : "";
    case PackedEntry::Order::kVector:
      if (entry.type == kF32 && entry.columns == 1) return "";
      return absl::StrCat("is a vector of type ", static_cast<int>(entry.type), " with ",
                          entry.columns, " columns, wanted type 1 and 1 column");
  }
  return absl::StrCat("has the order ", static_cast<int>(entry.order), ", wanted 1 to 3");
}

std::string ErrorProblem(const PackedEntry& entry) {
  for (const double sum : {entry.squared_errors, entry.squared_weights}) {
    if (std::isfinite(sum) && sum >= 0) continue;
    return absl::StrCat("has a sum of squares of ", sum, ", wanted a number from 0 on");
  }
  return "";
}

std::string SizeProblem(const PackedEntry& entry) {
  if (entry.rows - 1 >= kMaxDimension || entry.columns - 1 >= kMaxDimension) {
    return absl::StrCat("has ", entry.rows, " rows and ", entry.columns, " columns, wanted 1 to ",
                        kMaxDimension, " of each");
  }
  if (entry.bytes == 0) return "has no bytes";
  if (entry.order == PackedEntry::Order::kPanels) return "";  // its kernels know how many
  const uint64_t wanted = entry.rows * entry.columns * (entry.type == kF32 ? 4 : 2);
  if (entry.bytes == wanted) return "";
  return absl::StrCat("has ", entry.bytes, " bytes, wanted ", wanted, " for ", entry.rows, " x ",
                      entry.columns, " elements of type ", static_cast<int>(entry.type));
}

// `end` as in TextProblem; the first tensor lies there.
std::string PlaceProblem(const PackedEntry& entry, uint64_t file_bytes, bool first, uint64_t& end) {
  if (entry.offset > file_bytes || entry.bytes > file_bytes - entry.offset) {
    return absl::StrCat("has ", entry.bytes, " bytes at ", entry.offset, ", beyond the file's ",
                        file_bytes);
  }
  if (entry.offset < end) {
    return absl::StrCat("lies at ", entry.offset, ", but what is before it ends at ", end,
                        ": out of order or overlapping");
  }
  if (entry.offset % kPackedEntryAlignment != 0) {
    return absl::StrCat("lies at ", entry.offset, ", wanted a multiple of ", kPackedEntryAlignment);
  }
  const uint64_t latest = first ? end : internal::RoundUpPacked(end, kPackedPageBytes);
  if (entry.offset > latest) {
    return absl::StrCat("lies at ", entry.offset, ", wanted at most ", latest,
                        ": more than padding is before it");
  }
  end = entry.offset + entry.bytes;
  return "";
}

}  // namespace

std::string internal::QuotedName(std::string_view name) {
  std::string text(name.substr(0, kMaxPackedNameBytes));
  for (char& c : text) {
    if (!IsPrintable({&c, 1})) c = '?';
  }
  return absl::StrCat("\"", text, name.size() > text.size() ? "..." : "", "\"");
}

std::string PackedIndex::Problem() const {
  if (fingerprint.size() != kFingerprintDigits ||
      fingerprint.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return absl::StrCat("its fingerprint is ", QuotedName(fingerprint),
                        ", wanted 64 digits 0-9a-f");
  }
  if (numerics.empty() || numerics.size() > kMaxPackedNumericsBytes || !IsPrintable(numerics)) {
    return absl::StrCat("its numerics class is ", QuotedName(numerics), ", wanted 1 to ",
                        kMaxPackedNumericsBytes, " bytes of printable ASCII");
  }
  if (file_bytes > kMaxFileBytes) {
    return absl::StrCat("its size is ", file_bytes, ", wanted at most ", kMaxFileBytes);
  }
  std::unordered_set<std::string_view> names;
  uint64_t end = kPackedHeaderBytes + TableBytes();
  for (const PackedText& text : texts) {
    if (std::string problem = TextProblem(text, file_bytes, end); !problem.empty()) return problem;
    if (!names.insert(text.name).second) {
      return absl::StrCat("two texts are named ", QuotedName(text.name));
    }
  }
  end = internal::RoundUpPacked(end, kPackedPageBytes);
  if (data_offset != end) {
    return absl::StrCat("its tensors begin at ", data_offset, ", wanted ", end);
  }
  names.clear();
  names.reserve(entries.size());
  for (const PackedEntry& entry : entries) {
    std::string problem = NameProblem("tensor", entry.name);
    if (!problem.empty()) return problem;
    problem = FormatProblem(entry, version);
    if (problem.empty()) problem = ErrorProblem(entry);
    if (problem.empty()) problem = SizeProblem(entry);
    if (problem.empty()) problem = PlaceProblem(entry, file_bytes, names.empty(), end);
    if (!problem.empty()) return absl::StrCat("the tensor ", QuotedName(entry.name), " ", problem);
    if (!names.insert(entry.name).second) {
      return absl::StrCat("two tensors are named ", QuotedName(entry.name));
    }
  }
  if (file_bytes == end) return "";
  return absl::StrCat("its last tensor ends at ", end, ", its header says the file has ",
                      file_bytes, " bytes");
}

}  // namespace conclave::weights
