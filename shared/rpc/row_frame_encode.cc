#include <algorithm>

#include "shared/base/check.h"
#include "shared/rpc/row_frame.h"
#include "shared/rpc/row_frame_layout.h"

namespace conclave::rpc {
namespace {

using layout::Store;

void StoreCommon(std::span<std::byte> frame, size_t frame_bytes, layout::Kind kind, uint8_t flags,
                 size_t header_bytes, uint64_t call_id) {
  std::fill_n(frame.begin(), header_bytes, std::byte{0});
  Store<uint32_t>(&frame[layout::kMagicAt], layout::kMagic);
  Store<uint16_t>(&frame[layout::kVersionAt], kRowFrameVersion);
  Store<uint8_t>(&frame[layout::kKindAt], static_cast<uint8_t>(kind));
  Store<uint8_t>(&frame[layout::kFlagsAt], flags);
  Store<uint32_t>(&frame[layout::kFrameBytesAt], static_cast<uint32_t>(frame_bytes));
  Store<uint32_t>(&frame[layout::kHeaderBytesAt], static_cast<uint32_t>(header_bytes));
  Store<uint64_t>(&frame[layout::kCallIdAt], call_id);
}

template <typename Entry>
void StoreTable(std::span<std::byte> frame, size_t offset, std::span<const Entry> entries) {
  if (!entries.empty()) std::memcpy(&frame[offset], entries.data(), entries.size_bytes());
}

std::string_view Cut(std::string_view text) { return text.substr(0, kMaxTextBytes); }

std::string_view TraceOf(const RequestHeader& header) {
  return std::string_view(header.traceparent).substr(0, layout::kMaxTraceparentBytes);
}

size_t RowsOffset(size_t header_bytes, size_t num_entries, size_t trace_bytes) {
  return header_bytes + num_entries * 8 + layout::PadTo8(trace_bytes);
}

}  // namespace

std::vector<std::byte> EncodeHello(const HelloFrame& hello) {
  const std::string_view name = Cut(hello.name);
  std::vector<std::byte> frame(layout::kHelloBytes + name.size());
  StoreCommon(frame, frame.size(), layout::Kind::kHello, 0, layout::kHelloBytes, 0);
  std::memcpy(&frame[layout::kHelloFingerprintAt], hello.fingerprint.data(),
              hello.fingerprint.size());
  Store<uint8_t>(&frame[layout::kHelloNumericsAt], static_cast<uint8_t>(hello.numerics));
  Store<uint8_t>(&frame[layout::kHelloRowTypeAt], static_cast<uint8_t>(hello.row_type));
  Store<uint16_t>(&frame[layout::kHelloNameBytesAt], static_cast<uint16_t>(name.size()));
  Store<uint64_t>(&frame[layout::kHelloWindowAt], hello.window_bytes);
  if (!name.empty()) std::memcpy(frame.data() + layout::kHelloBytes, name.data(), name.size());
  return frame;
}

std::vector<std::byte> EncodeError(const ErrorFrame& error) {
  const std::string_view message = Cut(error.message);
  std::vector<std::byte> frame(layout::kErrorBytes + message.size());
  StoreCommon(frame, frame.size(), layout::Kind::kError, 0, layout::kErrorBytes, error.call_id);
  Store<uint32_t>(&frame[layout::kErrorCodeAt], static_cast<uint32_t>(error.code));
  Store<uint32_t>(&frame[layout::kErrorMessageBytesAt], static_cast<uint32_t>(message.size()));
  if (!message.empty()) {
    std::memcpy(frame.data() + layout::kErrorBytes, message.data(), message.size());
  }
  return frame;
}

std::vector<std::byte> EncodeCancel(const CancelFrame& cancel) {
  std::vector<std::byte> frame(layout::kCommonBytes);
  StoreCommon(frame, frame.size(), layout::Kind::kCancel, 0, layout::kCommonBytes, cancel.call_id);
  return frame;
}

size_t RequestFrameBytes(const RequestHeader& header, size_t num_references) {
  return RowsOffset(layout::kRequestBytes, num_references, TraceOf(header).size()) +
         size_t{header.num_rows} * header.hidden * kernels::RowTypeBytes(header.row_type);
}

size_t EncodeRequest(const RequestHeader& header, std::span<const RowReference> references,
                     std::span<std::byte> frame) {
  CONCLAVE_CHECK(frame.size() == RequestFrameBytes(header, references.size()));
  const std::string_view trace = TraceOf(header);
  StoreCommon(frame, frame.size(), layout::Kind::kRequest, 0, layout::kRequestBytes,
              header.call_id);
  std::memcpy(&frame[layout::kRequestFingerprintAt], header.fingerprint.data(),
              header.fingerprint.size());
  Store<uint8_t>(&frame[layout::kRequestNumericsAt], static_cast<uint8_t>(header.numerics));
  Store<uint8_t>(&frame[layout::kRequestRowTypeAt], static_cast<uint8_t>(header.row_type));
  Store<uint8_t>(&frame[layout::kRequestQosAt], header.qos);
  Store<uint8_t>(&frame[layout::kRequestTraceBytesAt], static_cast<uint8_t>(trace.size()));
  Store<uint32_t>(&frame[layout::kRequestLayerAt], header.layer);
  Store<uint32_t>(&frame[layout::kRequestHiddenAt], header.hidden);
  Store<float>(&frame[layout::kRequestWeightAt], header.tenant_weight);
  Store<uint32_t>(&frame[layout::kRequestRemainingAt], header.remaining_ms);
  Store<uint32_t>(&frame[layout::kRequestRowsAt], header.num_rows);
  Store<uint32_t>(&frame[layout::kRequestReferencesAt], static_cast<uint32_t>(references.size()));
  Store<uint32_t>(&frame[layout::kRequestDueAt], header.due_ms);
  StoreTable(frame, layout::kRequestBytes, references);
  const size_t trace_at = layout::kRequestBytes + references.size_bytes();
  const size_t rows_at = RowsOffset(layout::kRequestBytes, references.size(), trace.size());
  std::fill(frame.begin() + trace_at, frame.begin() + rows_at, std::byte{0});
  if (!trace.empty()) std::memcpy(frame.data() + trace_at, trace.data(), trace.size());
  return rows_at;
}

size_t ResultsHeadBytes(size_t num_answers) {
  return RowsOffset(layout::kResultsBytes, num_answers, 0);
}

size_t ResultsFrameBytes(const ResultsHeader& header, size_t num_answers) {
  return ResultsHeadBytes(num_answers) +
         size_t{header.num_rows} * header.hidden * kernels::RowTypeBytes(header.row_type);
}

size_t EncodeResults(const ResultsHeader& header, std::span<const Answer> answers,
                     std::span<std::byte> frame) {
  CONCLAVE_CHECK(frame.size() == ResultsFrameBytes(header, answers.size()));
  const size_t head_bytes = ResultsHeadBytes(answers.size());
  EncodeResultsHead(header, answers, frame.first(head_bytes));
  return head_bytes;
}

void EncodeResultsHead(const ResultsHeader& header, std::span<const Answer> answers,
                       std::span<std::byte> head) {
  CONCLAVE_CHECK(head.size() == ResultsHeadBytes(answers.size()));
  StoreCommon(head, ResultsFrameBytes(header, answers.size()), layout::Kind::kResults,
              header.last ? layout::kResultsLastFlag : 0, layout::kResultsBytes, header.call_id);
  Store<uint32_t>(&head[layout::kResultsLayerAt], header.layer);
  Store<uint32_t>(&head[layout::kResultsHiddenAt], header.hidden);
  Store<uint8_t>(&head[layout::kResultsRowTypeAt], static_cast<uint8_t>(header.row_type));
  Store<uint32_t>(&head[layout::kResultsAnswersAt], static_cast<uint32_t>(answers.size()));
  Store<uint32_t>(&head[layout::kResultsRowsAt], header.num_rows);
  Store<uint64_t>(&head[layout::kResultsComputeAt], header.compute_ns);
  Store<uint64_t>(&head[layout::kResultsQueueAt], header.queue_ns);
  StoreTable(head, layout::kResultsBytes, answers);
}

}  // namespace conclave::rpc
