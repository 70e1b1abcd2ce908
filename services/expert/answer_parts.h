// Collects the answers of a frame and sends them in parts.
//
// Called on the compute thread.
#pragma once

#include <cstdint>
#include <span>

#include "services/expert/pending_frame.h"

namespace conclave::expert {

// A part is sent once it holds so many bytes of rows, or when its frame is complete: early enough
// for the engine to work on it, and with one more block below the longest frame.
inline constexpr size_t kPartBytes = 256 << 10;

// Rows of a block: as many as fit kPartBytes, at least one.
size_t RowsPerBlock(size_t row_bytes);

// Adds answers for these references, all with one status; `rows` holds their rows in order if it is
// kOk, else it is empty. At most RowsPerBlock rows at a time. Sends a part when there is enough,
// and the last one when every reference is answered.
void AddAnswers(PendingFrame& frame, std::span<const uint32_t> references, rpc::AnswerStatus status,
                rpc::FrameBuffer rows);

// Answers every reference that has no answer yet with `status` (not kOk) and sends the last part.
void AnswerRest(PendingFrame& frame, rpc::AnswerStatus status);

}  // namespace conclave::expert
