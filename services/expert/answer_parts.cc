#include "services/expert/answer_parts.h"

#include <algorithm>
#include <utility>

#include "shared/base/check.h"

namespace conclave::expert {
namespace {

void SendPart(PendingFrame& frame) {
  rpc::ResultsHeader header;
  header.call_id = frame.header.call_id;
  header.row_type = frame.header.row_type;
  header.last = frame.answered();
  header.layer = frame.header.layer;
  header.hidden = frame.header.hidden;
  header.num_rows = static_cast<uint32_t>(std::count_if(
      frame.answers.begin(), frame.answers.end(),
      [](const rpc::Answer& answer) { return answer.status == rpc::AnswerStatus::kOk; }));
  header.compute_ns = std::exchange(frame.compute_ns, 0);
  header.queue_ns = frame.queue_ns;
  rpc::OutgoingFrame part;
  part.reserve(1 + frame.answer_rows.size());
  part.emplace_back(rpc::ResultsHeadBytes(frame.answers.size()));
  rpc::EncodeResultsHead(header, frame.answers, part.front().span());
  std::move(frame.answer_rows.begin(), frame.answer_rows.end(), std::back_inserter(part));
  frame.answers.clear();
  frame.answer_rows.clear();
  frame.answer_bytes = 0;
  frame.sink->Send(std::move(part));
}

}  // namespace

size_t RowsPerBlock(size_t row_bytes) { return std::max<size_t>(1, kPartBytes / row_bytes); }

void AddAnswers(PendingFrame& frame, std::span<const uint32_t> references, rpc::AnswerStatus status,
                rpc::FrameBuffer rows) {
  CONCLAVE_CHECK((status == rpc::AnswerStatus::kOk) == (rows.size > 0));
  for (const uint32_t reference : references) frame.answers.push_back({reference, status});
  frame.num_answered += references.size();
  if (rows.size > 0) {
    frame.answer_bytes += rows.size;
    frame.answer_rows.push_back(std::move(rows));
  }
  if (frame.answered() || frame.answer_bytes >= kPartBytes) SendPart(frame);
}

void AnswerRest(PendingFrame& frame, rpc::AnswerStatus status) {
  std::vector<bool> planned(frame.references.size(), true);
  for (const PendingFrame::ExpertGroup& group : frame.groups) {
    for (uint32_t i = group.next; i < group.end; ++i) planned[frame.by_expert[i]] = false;
  }
  std::vector<uint32_t> rest;
  for (uint32_t reference = 0; reference < planned.size(); ++reference) {
    if (!planned[reference]) rest.push_back(reference);
  }
  if (!rest.empty()) AddAnswers(frame, rest, status, {});
}

}  // namespace conclave::expert
