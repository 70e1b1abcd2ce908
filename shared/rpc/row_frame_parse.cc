#include <algorithm>
#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/row_frame.h"
#include "shared/rpc/row_frame_layout.h"

namespace conclave::rpc {
namespace {

using layout::Load;

template <typename Found, typename Wanted>
absl::Status Malformed(const char* field, const Found& found, const Wanted& wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("row frame: ", field, " is ", found, ", wanted ", wanted));
}

// The fixed part of a frame, copied out of the message.
class Header {
 public:
  explicit Header(const ScatteredBytes& message) : bytes_(std::min(message.size(), sizeof(data_))) {
    message.CopyTo(0, std::span(data_, bytes_));
  }
  template <typename T>
  T Get(size_t offset) const {
    return Load<T>(data_ + offset);
  }
  FingerprintBytes Fingerprint(size_t offset) const { return Get<FingerprintBytes>(offset); }

 private:
  std::byte data_[layout::kRequestBytes] = {};  // the longest fixed part
  size_t bytes_;
};

absl::Status CheckHeaderBytes(const Header& header, size_t wanted, size_t message_bytes) {
  const uint32_t found = header.Get<uint32_t>(layout::kHeaderBytesAt);
  if (found != wanted) return Malformed("header_bytes", found, wanted);
  if (message_bytes < wanted)
    return Malformed("length", message_bytes, absl::StrCat("at least ", wanted, " bytes"));
  return absl::OkStatus();
}

absl::Status CheckLength(uint64_t wanted, size_t found) {
  if (wanted != found)
    return Malformed("length", found, absl::StrCat(wanted, " bytes by its tables and rows"));
  return absl::OkStatus();
}

absl::Status CheckFlags(const Header& header, uint8_t known) {
  const uint8_t flags = header.Get<uint8_t>(layout::kFlagsAt);
  if ((flags & ~known) != 0)
    return Malformed("flags", int{flags}, absl::StrCat("only bits of ", int{known}));
  return absl::OkStatus();
}

absl::StatusOr<kernels::NumericsClass> ReadNumerics(const Header& header, size_t offset) {
  const uint8_t value = header.Get<uint8_t>(offset);
  const auto numerics = static_cast<kernels::NumericsClass>(value);
  if (numerics < kernels::NumericsClass::kF32 || numerics > kernels::NumericsClass::kInt4) {
    return Malformed("numerics class", int{value}, "1 (f32), 2 (bf16), 3 (int8) or 4 (int4)");
  }
  return numerics;
}

absl::StatusOr<kernels::RowType> ReadRowType(const Header& header, size_t offset) {
  const uint8_t value = header.Get<uint8_t>(offset);
  const auto type = static_cast<kernels::RowType>(value);
  if (type != kernels::RowType::kF32 && type != kernels::RowType::kBf16) {
    return Malformed("row type", int{value}, "1 (f32) or 2 (bf16)");
  }
  return type;
}

absl::StatusOr<uint32_t> ReadInRange(const Header& header, size_t offset, const char* field,
                                     uint32_t least, uint32_t most) {
  const uint32_t value = header.Get<uint32_t>(offset);
  if (value < least || value > most)
    return Malformed(field, value, absl::StrCat(least, " to ", most));
  return value;
}

absl::StatusOr<uint64_t> ReadCallId(const Header& header) {
  const uint64_t call_id = header.Get<uint64_t>(layout::kCallIdAt);
  if (call_id == 0) return Malformed("call id", 0, "above 0");
  return call_id;
}

std::string ReadText(const ScatteredBytes& message, size_t offset, size_t bytes) {
  std::string text(bytes, '\0');
  message.CopyTo(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

bool IsPrintable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

absl::StatusOr<HelloFrame> ParseHello(const Header& header, const ScatteredBytes& message) {
  RETURN_IF_ERROR(CheckHeaderBytes(header, layout::kHelloBytes, message.size()));
  RETURN_IF_ERROR(CheckFlags(header, 0));
  HelloFrame hello;
  hello.fingerprint = header.Fingerprint(layout::kHelloFingerprintAt);
  ASSIGN_OR_RETURN(hello.numerics, ReadNumerics(header, layout::kHelloNumericsAt));
  ASSIGN_OR_RETURN(hello.row_type, ReadRowType(header, layout::kHelloRowTypeAt));
  const size_t name_bytes = header.Get<uint16_t>(layout::kHelloNameBytesAt);
  if (name_bytes > kMaxTextBytes)
    return Malformed("name length", name_bytes, absl::StrCat("at most ", kMaxTextBytes));
  RETURN_IF_ERROR(CheckLength(layout::kHelloBytes + name_bytes, message.size()));
  hello.window_bytes = header.Get<uint64_t>(layout::kHelloWindowAt);
  hello.name = ReadText(message, layout::kHelloBytes, name_bytes);
  if (!IsPrintable(hello.name)) return Malformed("name", "not printable", "printable ASCII");
  return hello;
}

absl::StatusOr<ParsedRequest> ParseRequest(const Header& header, const ScatteredBytes& message) {
  RETURN_IF_ERROR(CheckHeaderBytes(header, layout::kRequestBytes, message.size()));
  RETURN_IF_ERROR(CheckFlags(header, 0));
  ParsedRequest request;
  RequestHeader& fields = request.header;
  ASSIGN_OR_RETURN(fields.call_id, ReadCallId(header));
  fields.fingerprint = header.Fingerprint(layout::kRequestFingerprintAt);
  ASSIGN_OR_RETURN(fields.numerics, ReadNumerics(header, layout::kRequestNumericsAt));
  ASSIGN_OR_RETURN(fields.row_type, ReadRowType(header, layout::kRequestRowTypeAt));
  fields.qos = header.Get<uint8_t>(layout::kRequestQosAt);
  if (fields.qos < 1 || fields.qos > 4) return Malformed("QoS class", int{fields.qos}, "1 to 4");
  ASSIGN_OR_RETURN(fields.layer,
                   ReadInRange(header, layout::kRequestLayerAt, "layer", 0, layout::kMaxLayer));
  ASSIGN_OR_RETURN(fields.hidden,
                   ReadInRange(header, layout::kRequestHiddenAt, "hidden", 1, kMaxHiddenElements));
  fields.tenant_weight = header.Get<float>(layout::kRequestWeightAt);
  if (!std::isfinite(fields.tenant_weight) || fields.tenant_weight <= 0) {
    return Malformed("tenant weight", fields.tenant_weight, "a finite number above 0");
  }
  fields.remaining_ms = header.Get<uint32_t>(layout::kRequestRemainingAt);
  fields.due_ms = header.Get<uint32_t>(layout::kRequestDueAt);
  ASSIGN_OR_RETURN(fields.num_rows, ReadInRange(header, layout::kRequestRowsAt, "number of rows", 1,
                                                kMaxFrameBytes));
  ASSIGN_OR_RETURN(const uint32_t num_references,
                   ReadInRange(header, layout::kRequestReferencesAt, "number of references", 1,
                               kMaxFrameBytes / 8));
  const size_t trace_bytes = header.Get<uint8_t>(layout::kRequestTraceBytesAt);
  if (trace_bytes > layout::kMaxTraceparentBytes) {
    return Malformed("traceparent length", trace_bytes,
                     absl::StrCat("at most ", layout::kMaxTraceparentBytes));
  }
  request.rows.row_bytes = size_t{fields.hidden} * kernels::RowTypeBytes(fields.row_type);
  request.rows.num_rows = fields.num_rows;
  request.rows.offset =
      layout::kRequestBytes + size_t{num_references} * 8 + layout::PadTo8(trace_bytes);
  RETURN_IF_ERROR(CheckLength(
      request.rows.offset + uint64_t{fields.num_rows} * request.rows.row_bytes, message.size()));

  request.references.resize(num_references);
  message.CopyTo(layout::kRequestBytes, std::as_writable_bytes(std::span(request.references)));
  for (const RowReference& reference : request.references) {
    if (reference.row >= fields.num_rows) {
      return Malformed("a reference's row", reference.row, absl::StrCat("below ", fields.num_rows));
    }
    if (reference.expert > layout::kMaxExpert) {
      return Malformed("a reference's expert", reference.expert,
                       absl::StrCat("at most ", layout::kMaxExpert));
    }
  }
  fields.traceparent =
      ReadText(message, layout::kRequestBytes + size_t{num_references} * 8, trace_bytes);
  if (!IsPrintable(fields.traceparent))
    return Malformed("traceparent", "not printable", "printable ASCII");
  return request;
}

absl::StatusOr<ParsedResults> ParseResults(const Header& header, const ScatteredBytes& message) {
  RETURN_IF_ERROR(CheckHeaderBytes(header, layout::kResultsBytes, message.size()));
  RETURN_IF_ERROR(CheckFlags(header, layout::kResultsLastFlag));
  ParsedResults results;
  ResultsHeader& fields = results.header;
  ASSIGN_OR_RETURN(fields.call_id, ReadCallId(header));
  fields.last = (header.Get<uint8_t>(layout::kFlagsAt) & layout::kResultsLastFlag) != 0;
  ASSIGN_OR_RETURN(fields.row_type, ReadRowType(header, layout::kResultsRowTypeAt));
  ASSIGN_OR_RETURN(fields.layer,
                   ReadInRange(header, layout::kResultsLayerAt, "layer", 0, layout::kMaxLayer));
  ASSIGN_OR_RETURN(fields.hidden,
                   ReadInRange(header, layout::kResultsHiddenAt, "hidden", 1, kMaxHiddenElements));
  ASSIGN_OR_RETURN(
      const uint32_t num_answers,
      ReadInRange(header, layout::kResultsAnswersAt, "number of answers", 1, kMaxFrameBytes / 8));
  ASSIGN_OR_RETURN(fields.num_rows,
                   ReadInRange(header, layout::kResultsRowsAt, "number of rows", 0, num_answers));
  fields.compute_ns = header.Get<uint64_t>(layout::kResultsComputeAt);
  fields.queue_ns = header.Get<uint64_t>(layout::kResultsQueueAt);
  results.rows.row_bytes = size_t{fields.hidden} * kernels::RowTypeBytes(fields.row_type);
  results.rows.num_rows = fields.num_rows;
  results.rows.offset = layout::kResultsBytes + size_t{num_answers} * 8;
  RETURN_IF_ERROR(CheckLength(
      results.rows.offset + uint64_t{fields.num_rows} * results.rows.row_bytes, message.size()));

  results.answers.resize(num_answers);
  message.CopyTo(layout::kResultsBytes, std::as_writable_bytes(std::span(results.answers)));
  uint32_t answered = 0;
  for (const Answer& answer : results.answers) {
    if (answer.status > AnswerStatus::kDeadlineExceeded) {
      return Malformed("an answer's status", static_cast<uint32_t>(answer.status), "0 to 2");
    }
    answered += answer.status == AnswerStatus::kOk;
  }
  if (answered != fields.num_rows)
    return Malformed("number of rows", fields.num_rows,
                     absl::StrCat(answered, ", one an answer that is OK"));
  return results;
}

absl::StatusOr<ErrorFrame> ParseError(const Header& header, const ScatteredBytes& message) {
  RETURN_IF_ERROR(CheckHeaderBytes(header, layout::kErrorBytes, message.size()));
  RETURN_IF_ERROR(CheckFlags(header, 0));
  ErrorFrame error;
  error.call_id = header.Get<uint64_t>(layout::kCallIdAt);
  ASSIGN_OR_RETURN(const uint32_t code,
                   ReadInRange(header, layout::kErrorCodeAt, "error code", 1, 16));
  error.code = static_cast<absl::StatusCode>(code);
  const uint32_t bytes = header.Get<uint32_t>(layout::kErrorMessageBytesAt);
  if (bytes > kMaxTextBytes)
    return Malformed("message length", bytes, absl::StrCat("at most ", kMaxTextBytes));
  RETURN_IF_ERROR(CheckLength(layout::kErrorBytes + uint64_t{bytes}, message.size()));
  error.message = ReadText(message, layout::kErrorBytes, bytes);
  return error;
}

absl::StatusOr<CancelFrame> ParseCancel(const Header& header, const ScatteredBytes& message) {
  RETURN_IF_ERROR(CheckHeaderBytes(header, layout::kCommonBytes, message.size()));
  RETURN_IF_ERROR(CheckFlags(header, 0));
  RETURN_IF_ERROR(CheckLength(layout::kCommonBytes, message.size()));
  CancelFrame cancel;
  ASSIGN_OR_RETURN(cancel.call_id, ReadCallId(header));
  return cancel;
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

absl::StatusOr<FingerprintBytes> ParseFingerprint(std::string_view hex) {
  FingerprintBytes bytes;
  const bool digits = std::all_of(hex.begin(), hex.end(), [](char c) { return HexValue(c) >= 0; });
  if (hex.size() != 2 * bytes.size() || !digits) {
    return absl::InvalidArgumentError(
        absl::StrCat("fingerprint \"", std::string(hex.substr(0, 80)), "\" is not 64 hex digits"));
  }
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(HexValue(hex[2 * i]) * 16 + HexValue(hex[2 * i + 1]));
  }
  return bytes;
}

std::string FingerprintHex(const FingerprintBytes& fingerprint) {
  std::string hex;
  for (const uint8_t byte : fingerprint) absl::StrAppend(&hex, absl::Hex(byte, absl::kZeroPad2));
  return hex;
}

ScatteredBytes::ScatteredBytes(std::vector<std::span<const std::byte>> pieces)
    : pieces_(std::move(pieces)) {
  std::erase_if(pieces_, [](const auto& piece) { return piece.empty(); });
  starts_.reserve(pieces_.size());
  for (const auto& piece : pieces_) {
    starts_.push_back(size_);
    size_ += piece.size();
  }
}

size_t ScatteredBytes::PieceOf(size_t offset) const {
  return std::upper_bound(starts_.begin(), starts_.end(), offset) - starts_.begin() - 1;
}

void ScatteredBytes::CopyTo(size_t offset, std::span<std::byte> output) const {
  if (output.empty()) return;
  for (size_t piece = PieceOf(offset); !output.empty(); ++piece) {
    const auto source = pieces_[piece].subspan(offset - starts_[piece]);
    const size_t bytes = std::min(source.size(), output.size());
    std::memcpy(output.data(), source.data(), bytes);
    output = output.subspan(bytes);
    offset += bytes;
  }
}

const std::byte* ScatteredBytes::Contiguous(size_t offset, size_t bytes) const {
  const size_t piece = PieceOf(offset);
  const size_t inside = offset - starts_[piece];
  return inside + bytes <= pieces_[piece].size() ? pieces_[piece].data() + inside : nullptr;
}

const std::byte* RowInPlace(const ScatteredBytes& message, const RowArea& rows, uint32_t index,
                            size_t alignment) {
  const std::byte* row =
      message.Contiguous(rows.offset + size_t{index} * rows.row_bytes, rows.row_bytes);
  return reinterpret_cast<uintptr_t>(row) % alignment == 0 ? row : nullptr;
}

absl::StatusOr<ParsedFrame> ParseRowFrame(const ScatteredBytes& message) {
  if (message.size() < layout::kCommonBytes) {
    return Malformed("length", message.size(),
                     absl::StrCat("at least ", layout::kCommonBytes, " bytes"));
  }
  if (message.size() > kMaxFrameBytes) {
    return Malformed("length", message.size(), absl::StrCat("at most ", kMaxFrameBytes, " bytes"));
  }
  const Header header(message);
  if (const uint32_t magic = header.Get<uint32_t>(layout::kMagicAt); magic != layout::kMagic) {
    return Malformed("magic", absl::StrCat("0x", absl::Hex(magic, absl::kZeroPad8)),
                     absl::StrCat("0x", absl::Hex(layout::kMagic, absl::kZeroPad8),
                                  "; the peer speaks another protocol"));
  }
  if (const uint16_t version = header.Get<uint16_t>(layout::kVersionAt);
      version != kRowFrameVersion) {
    return Malformed("version", version,
                     absl::StrCat(kRowFrameVersion, "; run engines and workers of one release"));
  }
  if (const uint32_t bytes = header.Get<uint32_t>(layout::kFrameBytesAt); bytes != message.size()) {
    return Malformed("frame_bytes", bytes, absl::StrCat(message.size(), ", the message's length"));
  }
  const uint8_t kind = header.Get<uint8_t>(layout::kKindAt);
  switch (static_cast<layout::Kind>(kind)) {
    case layout::Kind::kHello:
      return ParseHello(header, message);
    case layout::Kind::kRequest:
      return ParseRequest(header, message);
    case layout::Kind::kResults:
      return ParseResults(header, message);
    case layout::Kind::kError:
      return ParseError(header, message);
    case layout::Kind::kCancel:
      return ParseCancel(header, message);
  }
  return Malformed("kind", int{kind}, "1 to 5");
}

}  // namespace conclave::rpc
