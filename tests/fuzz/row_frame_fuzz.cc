// Feeds bytes to the row-frame parser, whole and in pieces: nothing may crash, both must give the
// same, and what is accepted must keep the promises of row_frame.h.
//
// Built twice: with -DCONCLAVE_BUILD_FUZZERS=ON (clang) as a libFuzzer program, and always into the
// test that replays the corpus.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "shared/rpc/row_frame.h"

namespace {

using namespace conclave::rpc;

void Require(bool condition) {
  if (!condition) std::abort();
}

void ReadRows(const ScatteredBytes& message, const RowArea& rows) {
  Require(rows.offset + uint64_t{rows.num_rows} * rows.row_bytes == message.size());
  std::vector<std::byte> copy(rows.row_bytes);
  for (uint32_t row = 0; row < rows.num_rows; ++row) {
    message.CopyTo(rows.offset + row * rows.row_bytes, copy);
    const std::byte* in_place = RowInPlace(message, rows, row, 4);
    Require(in_place == nullptr || std::equal(copy.begin(), copy.end(), in_place));
  }
}

void CheckAccepted(const ScatteredBytes& message, const ParsedFrame& frame) {
  Require(message.size() <= kMaxFrameBytes);
  if (const auto* request = std::get_if<ParsedRequest>(&frame)) {
    Require(!request->references.empty());
    for (const RowReference& reference : request->references)
      Require(reference.row < request->rows.num_rows);
    ReadRows(message, request->rows);
  } else if (const auto* results = std::get_if<ParsedResults>(&frame)) {
    size_t ok = 0;
    for (const Answer& answer : results->answers) ok += answer.status == AnswerStatus::kOk;
    Require(ok == results->rows.num_rows);
    ReadRows(message, results->rows);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const ScatteredBytes whole({bytes});
  const auto frame = ParseRowFrame(whole);

  // Pieces of a length that the input itself decides.
  const size_t piece = 1 + (size > 0 ? data[size - 1] : 0);
  std::vector<std::span<const std::byte>> pieces;
  for (size_t at = 0; at < size; at += piece)
    pieces.push_back(bytes.subspan(at, std::min(piece, size - at)));
  const ScatteredBytes scattered(std::move(pieces));
  const auto same = ParseRowFrame(scattered);

  Require(frame.status() == same.status());
  if (!frame.ok()) return 0;
  Require(frame->index() == same->index());
  CheckAccepted(whole, *frame);
  CheckAccepted(scattered, *same);
  return 0;
}
