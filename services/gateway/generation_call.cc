#include "services/gateway/generation_call.h"

#include <utility>

namespace conclave::gateway {

GenerationCall::GenerationCall(Frontend* frontend, CallOrigin origin)
    : RequestCall(origin.deadline),
      frontend_(frontend),
      origin_(std::make_shared<const CallOrigin>(std::move(origin))) {}

void GenerationCall::Begin(std::string_view request) {
  const auto self = std::static_pointer_cast<GenerationCall>(shared_from_this());
  PrepareGrpc(frontend_, {.bytes = request.size(),
                          .message_bytes = request.size(),
                          .parse = ParserOf(request),
                          .origin = origin_,
                          .interrupt = interrupt(),
                          .done = [self](absl::StatusOr<PreparedRequest> prepared) {
                            prepared.ok() ? self->Submit(*std::move(prepared))
                                          : self->Finish(prepared.status());
                          }});
}

void GenerationCall::Submit(PreparedRequest prepared) {
  std::shared_ptr<GenerationSink> sink = MakeSink(prepared.generation);
  const uint64_t key = frontend_->Submit(std::move(prepared.admission),
                                         std::move(prepared.generation), std::move(sink));
  bool cancelled = false;
  {
    MutexLock lock(mutex_);
    key_ = key;
    cancelled = cancelled_;
  }
  if (cancelled) frontend_->Abandon(key);
}

void GenerationCall::OnCancel() {
  uint64_t key = 0;
  {
    MutexLock lock(mutex_);
    cancelled_ = true;
    key = key_;
  }
  if (key != 0) frontend_->Abandon(key);
  RequestCall::OnCancel();
}

}  // namespace conclave::gateway
