// Between the protobuf messages of EngineService and the engine's own types. Used by
// engine_service.cc alone.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "conclave/v1/engine.pb.h"
#include "services/engine/sequence.h"
#include "services/engine/sequence_event.h"

namespace conclave::engine {

// Fills a request, validated against `limits`; `stream` and `arrived` become part of it.
// FAILED_PRECONDITION: another model's fingerprint; INVALID_ARGUMENT: ValidateSequenceRequest, or
// what only the message can have wrong.
absl::StatusOr<SequenceRequest> ReadStart(const v1::StartSequence& start, uint64_t stream,
                                          TimePoint arrived, std::string_view fingerprint,
                                          const SequenceLimits& limits);

void WriteEvent(const SequenceEvent& event, v1::EngineEvent* message);
void WriteFailure(uint64_t sequence_id, const absl::Status& status, v1::EngineEvent* message);

}  // namespace conclave::engine
