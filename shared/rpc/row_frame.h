// The binary frames between engines and expert workers (docs/wire-format.md has the byte tables):
// encoding into a caller's buffer, and strict parsing that copies nothing but the small tables.
//
// Pure functions and values; knows nothing of gRPC. A frame never crashes its reader: every length
// is checked before it is used.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/elementwise.h"
#include "kernels/matrix.h"

namespace conclave::rpc {

inline constexpr uint16_t kRowFrameVersion = 1;
// No frame is longer: requests are cut, and results come in parts, below it. Keeps an urgent frame
// from waiting behind a long one.
inline constexpr size_t kMaxFrameBytes = 1 << 20;
inline constexpr size_t kMaxTextBytes =
    1024;  // of names and messages; longer ones are cut by the encoder
inline constexpr size_t kMaxHiddenElements = 1 << 17;

using FingerprintBytes = std::array<uint8_t, 32>;

// 64 hex digits to bytes. INVALID_ARGUMENT otherwise.
absl::StatusOr<FingerprintBytes> ParseFingerprint(std::string_view hex);
std::string FingerprintHex(const FingerprintBytes& fingerprint);

// First message in either direction: who speaks, and what it serves.
struct HelloFrame {
  FingerprintBytes fingerprint = {};
  kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;
  kernels::RowType row_type = kernels::RowType::kBf16;
  uint64_t window_bytes =
      0;  // worker: request bytes that it takes from this stream before it stops reading; engine: 0
  std::string name = {};  // "expert-0"
};

// A row that an expert is to compute. A row used by several experts of one worker travels once.
struct RowReference {
  uint32_t row = 0;  // index into the frame's rows
  uint32_t expert = 0;
  friend bool operator==(const RowReference&, const RowReference&) = default;
};

struct RequestHeader {
  uint64_t call_id = 0;  // unique on the stream, > 0
  FingerprintBytes fingerprint = {};
  kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;
  kernels::RowType row_type = kernels::RowType::kBf16;
  uint8_t qos = 2;  // conclave.v1.QosClass, 1 (most urgent) to 4
  uint32_t layer = 0;
  uint32_t hidden = 0;        // elements of a row
  float tenant_weight = 1;    // > 0, finite
  uint32_t remaining_ms = 0;  // how long the sender will wait, counted from arrival; 0: no limit
  uint32_t due_ms = 0;        // when the most urgent row is due, likewise; 0: not before that
  uint32_t num_rows = 0;
  std::string traceparent = {};  // W3C, or empty
};

// How one reference ended.
enum class AnswerStatus : uint32_t {
  kOk = 0,
  kNotHeld = 1,           // this worker does not hold the expert
  kDeadlineExceeded = 2,  // remaining_ms passed before it was computed
};

struct Answer {
  uint32_t reference = 0;  // index into the request's references
  AnswerStatus status = AnswerStatus::kOk;
  friend bool operator==(const Answer&, const Answer&) = default;
};

struct ResultsHeader {
  uint64_t call_id = 0;
  kernels::RowType row_type = kernels::RowType::kBf16;
  bool last = false;  // no more parts follow
  uint32_t layer = 0;
  uint32_t hidden = 0;
  uint32_t num_rows =
      0;  // = the number of answers with kOk; rows follow in the order of those answers
  uint64_t compute_ns = 0;  // spent on this part
  uint64_t queue_ns = 0;    // from arrival of the request to its first unit of work
};

// A call, or with call id 0 the whole stream, failed.
struct ErrorFrame {
  uint64_t call_id = 0;
  absl::StatusCode code = absl::StatusCode::kInternal;
  std::string message = {};
};

struct CancelFrame {
  uint64_t call_id = 0;
};

// The bytes of a received message, in pieces: a borrowed view.
class ScatteredBytes {
 public:
  ScatteredBytes() = default;
  explicit ScatteredBytes(std::vector<std::span<const std::byte>> pieces);

  size_t size() const { return size_; }
  // Copies [offset, offset + output.size()); the range is inside the message.
  void CopyTo(size_t offset, std::span<std::byte> output) const;
  // The range [offset, offset + bytes) if it lies in one piece, else null.
  const std::byte* Contiguous(size_t offset, size_t bytes) const;

 private:
  size_t PieceOf(size_t offset) const;
  std::vector<std::span<const std::byte>> pieces_;  // none empty
  std::vector<size_t> starts_;                      // of each piece in the message
  size_t size_ = 0;
};

// The rows of a parsed frame: [num_rows][row_bytes], somewhere in the message.
struct RowArea {
  size_t offset = 0;
  size_t row_bytes = 0;
  uint32_t num_rows = 0;
};

struct ParsedRequest {
  RequestHeader header;
  std::vector<RowReference> references = {};
  RowArea rows;
};

struct ParsedResults {
  ResultsHeader header;
  std::vector<Answer> answers = {};
  RowArea rows;
};

using ParsedFrame = std::variant<HelloFrame, ParsedRequest, ParsedResults, ErrorFrame, CancelFrame>;

// INVALID_ARGUMENT names the field, what was found, and what was wanted. Nothing refers to
// `message` afterwards but offsets.
absl::StatusOr<ParsedFrame> ParseRowFrame(const ScatteredBytes& message);

// Row `index` where it lies, or null if it is in two pieces or not aligned to `alignment`: then
// copy it with CopyTo.
const std::byte* RowInPlace(const ScatteredBytes& message, const RowArea& rows, uint32_t index,
                            size_t alignment);

// Whole frames.
std::vector<std::byte> EncodeHello(const HelloFrame& hello);
std::vector<std::byte> EncodeError(const ErrorFrame& error);
std::vector<std::byte> EncodeCancel(const CancelFrame& cancel);

// Frames with rows: the caller allocates `...FrameBytes`, the encoder writes all but the rows and
// returns where the rows start; row i goes to offset + i * hidden * kernels::RowTypeBytes.
// CHECK-fails when the buffer has another size.
size_t RequestFrameBytes(const RequestHeader& header, size_t num_references);
size_t EncodeRequest(const RequestHeader& header, std::span<const RowReference> references,
                     std::span<std::byte> frame);
size_t ResultsFrameBytes(const ResultsHeader& header, size_t num_answers);
size_t EncodeResults(const ResultsHeader& header, std::span<const Answer> answers,
                     std::span<std::byte> frame);
// The same frame without its rows, which follow as further pieces of the message: `head` is
// ResultsHeadBytes long.
size_t ResultsHeadBytes(size_t num_answers);
void EncodeResultsHead(const ResultsHeader& header, std::span<const Answer> answers,
                       std::span<std::byte> head);

}  // namespace conclave::rpc
