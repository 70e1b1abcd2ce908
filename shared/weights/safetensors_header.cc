#include "shared/weights/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace conclave::weights {
namespace {

constexpr char kRemedy[] =
    "the file is damaged or was not written by safetensors: download or convert it again";
constexpr size_t kMaxDimensions = 8;  // weights have at most 3; bounds what a message prints

absl::Status Damaged(std::string_view file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(std::string(file), ": ", what, "; ", kRemedy));
}

// Control bytes and over-long names must not reach a terminal.
std::string Printable(std::string_view name) {
  std::string text(name.substr(0, 200));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return name.size() > 200 ? text + "..." : text;
}

// Receives the parser's events; keeps at most one tensor's state. Returning false stops the parser
// with `error_` set.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<TensorInfo>& tensors() { return tensors_; }
  const std::string& error() const { return error_; }

  bool start_object(size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kNames;
        return true;
      case Place::kName:
        place_ = current_.name == "__metadata__" ? Place::kMetadata : Place::kFields;
        seen_fields_ = 0;
        metadata_keys_.clear();
        return true;
      default:
        return Mistyped("an object");
    }
  }

  bool end_object() override {
    switch (place_) {
      case Place::kNames:
        place_ = Place::kEnd;
        return true;
      case Place::kMetadata:
        place_ = Place::kNames;
        return true;
      default:
        break;
    }
    if (seen_fields_ != kAllFields) {
      return Fail(absl::StrCat(Subject(), " lacks dtype, shape or data_offsets"));
    }
    place_ = Place::kNames;
    tensors_.push_back(std::move(current_));
    current_ = {};
    return true;
  }

  bool key(string_t& key) override {
    switch (place_) {
      case Place::kNames:
        if (!names_.insert(key).second) {
          return Fail(absl::StrCat("duplicate tensor ", Printable(key)));
        }
        current_ = {};
        current_.name = key;
        place_ = Place::kName;
        return true;
      case Place::kMetadata:
        if (!metadata_keys_.insert(key).second) {
          return Fail(absl::StrCat("duplicate metadata key ", Printable(key)));
        }
        return true;
      default:
        break;
    }
    const auto field = std::find(kFieldNames.begin(), kFieldNames.end(), key);
    if (field == kFieldNames.end()) {
      return Fail(absl::StrCat(Subject(), " has the unknown key ", Printable(key)));
    }
    field_ = static_cast<unsigned>(field - kFieldNames.begin());
    if (seen_fields_ & (1u << field_)) {
      return Fail(absl::StrCat(Subject(), " has two values of ", Printable(key)));
    }
    seen_fields_ |= 1u << field_;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ != Place::kFields || field_ == kDTypeField) return Mistyped("an array");
    place_ = Place::kArray;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    place_ = Place::kFields;
    if (field_ == kOffsetsField) {
      if (numbers_.size() != 2) {
        return Fail(absl::StrCat(Subject(), " has ", numbers_.size(), " data_offsets, wanted 2"));
      }
      current_.begin = numbers_[0];
      current_.end = numbers_[1];
      return true;
    }
    if (numbers_.size() > kMaxDimensions) {
      return Fail(absl::StrCat(Subject(), " has ", numbers_.size(), " dimensions, wanted at most ",
                               kMaxDimensions));
    }
    for (uint64_t number : numbers_) {
      if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Fail(absl::StrCat(Subject(), " has a dimension of ", number, ", which overflows"));
      }
      current_.shape.push_back(static_cast<int64_t>(number));
    }
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::kArray) return Mistyped("a number");
    if (numbers_.size() > kMaxDimensions) return Fail(absl::StrCat(Subject(), ": array too long"));
    numbers_.push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kFields || field_ != kDTypeField) return Mistyped("a string");
    const std::optional<DType> dtype = ParseDType(value);
    if (!dtype) return Fail(absl::StrCat(Subject(), " has the unknown dtype ", Printable(value)));
    current_.dtype = *dtype;
    return true;
  }

  bool null() override { return Mistyped("null"); }
  bool boolean(bool) override { return Mistyped("a boolean"); }
  bool number_integer(number_integer_t) override { return Mistyped("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Mistyped("a fraction or a number beyond 64 bits");
  }
  bool binary(binary_t&) override { return Mistyped("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Fail(absl::StrCat("the header is not JSON at byte ", position));
  }

 private:
  enum class Place { kStart, kNames, kName, kMetadata, kFields, kArray, kEnd };
  static constexpr std::array<std::string_view, 3> kFieldNames = {"dtype", "shape", "data_offsets"};
  static constexpr unsigned kDTypeField = 0, kOffsetsField = 2, kAllFields = 7;

  std::string Subject() const { return absl::StrCat("tensor ", Printable(current_.name)); }

  bool Fail(std::string what) {
    if (error_.empty()) error_ = std::move(what);
    return false;
  }

  bool Mistyped(const char* found) {
    switch (place_) {
      case Place::kStart:
        return Fail(absl::StrCat("the header is ", found, ", wanted a JSON object"));
      case Place::kName:
        return Fail(absl::StrCat(Subject(), " is ", found, ", wanted an object"));
      case Place::kMetadata:
        return Fail(absl::StrCat("__metadata__ holds ", found, ", wanted strings only"));
      default:
        return Fail(absl::StrCat(
            Subject(), ": ", std::string(kFieldNames[field_]), " holds ", found,
            field_ == kDTypeField ? ", wanted a string" : ", wanted unsigned integers"));
    }
  }

  Place place_ = Place::kStart;
  TensorInfo current_;
  unsigned field_ = 0;
  unsigned seen_fields_ = 0;
  std::vector<uint64_t> numbers_;
  std::vector<TensorInfo> tensors_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_keys_;
  std::string error_;
};

// Bytes that the shape and type take; nullopt when the product overflows or is no whole number of
// bytes.
std::optional<uint64_t> ShapeBytes(const TensorInfo& tensor) {
  uint64_t bits = static_cast<uint64_t>(DTypeBits(tensor.dtype));
  bool empty = false;
  for (int64_t dimension : tensor.shape) {
    if (dimension == 0)
      empty = true;
    else if (__builtin_mul_overflow(bits, static_cast<uint64_t>(dimension), &bits))
      return std::nullopt;
  }
  if (empty) return 0;
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

}  // namespace

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<uint64_t> ParseHeaderLength(std::string_view first_bytes, uint64_t file_bytes,
                                           std::string_view file) {
  if (first_bytes.size() < 8 || file_bytes < 8) {
    return Damaged(file, absl::StrCat("is ", file_bytes,
                                      " bytes long, wanted at least the 8 of a "
                                      "safetensors header length"));
  }
  uint64_t length = 0;
  for (int i = 7; i >= 0; --i) {
    length = (length << 8) | static_cast<unsigned char>(first_bytes[static_cast<size_t>(i)]);
  }
  if (length > kMaxHeaderBytes) {
    return Damaged(file, absl::StrCat("says its header has ", length, " bytes, over the limit of ",
                                      kMaxHeaderBytes));
  }
  if (length > file_bytes - 8) {
    return Damaged(file, absl::StrCat("says its header has ", length, " bytes, but only ",
                                      file_bytes - 8, " follow: truncated"));
  }
  return length;
}

absl::StatusOr<std::vector<TensorInfo>> ParseHeader(std::string_view json, uint64_t file_bytes,
                                                    std::string_view file) {
  if (json.empty() || json.front() != '{') {
    return Damaged(file, "the header does not begin with {");
  }
  if (const size_t zero = json.find('\0'); zero != std::string_view::npos) {
    // The parser would take it for the end and ignore what follows.
    return Damaged(file, absl::StrCat("the header is not JSON at byte ", zero));
  }
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &handler)) {
    return Damaged(file, handler.error().empty() ? "the header is not JSON" : handler.error());
  }
  std::vector<TensorInfo>& tensors = handler.tensors();
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });

  const uint64_t data_begin = 8 + json.size();
  const uint64_t data_bytes = file_bytes - data_begin;
  uint64_t covered = 0;
  for (TensorInfo& tensor : tensors) {
    const std::string subject = absl::StrCat("tensor ", Printable(tensor.name));
    const std::string range = absl::StrCat("[", tensor.begin, ", ", tensor.end, ")");
    if (tensor.end < tensor.begin) {
      return Damaged(file, absl::StrCat(subject, " ends before it begins: data_offsets ", range));
    }
    if (tensor.end > data_bytes) {
      return Damaged(file, absl::StrCat(subject, " has data_offsets ", range,
                                        ", beyond the data of ", data_bytes, " bytes: truncated"));
    }
    const std::optional<uint64_t> wanted = ShapeBytes(tensor);
    if (!wanted) {
      return Damaged(file, absl::StrCat(subject, " has the shape ", ShapeText(tensor.shape),
                                        ", whose size overflows or is no whole number of bytes"));
    }
    if (*wanted != tensor.bytes()) {
      return Damaged(file, absl::StrCat(subject, " takes ", tensor.bytes(), " bytes, but ",
                                        std::string(DTypeName(tensor.dtype)), " ",
                                        ShapeText(tensor.shape), " needs ", *wanted));
    }
    if (tensor.begin < covered) {
      return Damaged(file, absl::StrCat(subject, " at ", range,
                                        " overlaps the tensor before it, "
                                        "which ends at ",
                                        covered));
    }
    if (tensor.begin > covered) {
      return Damaged(file, absl::StrCat("bytes [", covered, ", ", tensor.begin, ") before ",
                                        subject, " belong to no tensor"));
    }
    covered = tensor.end;
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  if (covered != data_bytes) {
    return Damaged(file, absl::StrCat("has ", data_bytes - covered,
                                      " bytes after the last tensor, "
                                      "wanted none"));
  }
  return std::move(tensors);
}

}  // namespace conclave::weights
