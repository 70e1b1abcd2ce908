#include "shared/http/exchange.h"

#include <utility>

#include "shared/http/outgoing.h"

namespace conclave::http {

Exchange::Exchange(Request request, std::shared_ptr<internal::Outgoing> outgoing)
    : request_(std::move(request)), outgoing_(std::move(outgoing)) {}

Exchange::~Exchange() {
  if (outgoing_->ended()) return;
  outgoing_->Drop(ErrorResponse({.status = 500,
                                 .message = "the server gave up this request without an answer",
                                 .type = "server_error",
                                 .param = "",
                                 .code = "internal"}));
}

void Exchange::Respond(Response response) { outgoing_->Respond(std::move(response)); }
void Exchange::AddStreamHeader(std::string name, std::string value) {
  outgoing_->AddStreamHeader(std::move(name), std::move(value));
}

void Exchange::BeginStream(StreamHead head) { outgoing_->BeginStream(std::move(head)); }
bool Exchange::Write(std::string_view bytes) { return outgoing_->Write(bytes); }
void Exchange::EndStream() { outgoing_->End(); }
bool Exchange::stream_begun() const { return outgoing_->stream_begun(); }
void Exchange::OnClientGone(std::function<void()> callback) {
  outgoing_->OnClientGone(std::move(callback));
}

}  // namespace conclave::http
