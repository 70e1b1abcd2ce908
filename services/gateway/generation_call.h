// A gRPC call that is one generation: prepares and submits it, and abandons it with its client.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "services/gateway/frontend.h"
#include "services/gateway/generation_sink.h"
#include "services/gateway/grpc_prepare.h"
#include "services/gateway/request_call.h"
#include "shared/base/mutex.h"

namespace conclave::gateway {

// The message is a v1::GenerateRequest.
class GenerationCall : public RequestCall {
 public:
  GenerationCall(Frontend* frontend, CallOrigin origin);

  void Begin(std::string_view request) override;
  void OnCancel() override EXCLUDES(mutex_);

 protected:
  // What makes the call's answer; it holds the call.
  virtual std::shared_ptr<GenerationSink> MakeSink(const Generation& generation) = 0;
  const Frontend& frontend() const { return *frontend_; }

 private:
  void Submit(PreparedRequest prepared) EXCLUDES(mutex_);

  Frontend* const frontend_;
  const std::shared_ptr<const CallOrigin> origin_;
  Mutex mutex_;
  uint64_t key_ GUARDED_BY(mutex_) = 0;
  bool cancelled_ GUARDED_BY(mutex_) = false;
};

}  // namespace conclave::gateway
