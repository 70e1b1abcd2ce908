// The half of Session that sends.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/h2/grpc_wire.h"
#include "shared/h2/session.h"
#include "shared/rpc/status.h"

namespace conclave::h2 {
namespace {

// An answer of more than this takes turns with the connection's other answers.
constexpr size_t kLongAnswerBytes = 16 << 10;
// What an answered call takes here and in nghttp2 until the client takes its answer.
constexpr size_t kUntakenCallBytes = 3 << 10;

// Neither name nor value is copied: both outlive the frame.
template <size_t name_size, size_t value_size>
nghttp2_nv Fixed(const char (&name)[name_size], const char (&value)[value_size]) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name)),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value)), name_size - 1, value_size - 1,
          NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
}

template <size_t name_size>
nghttp2_nv Copied(const char (&name)[name_size], const std::string& value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name)),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name_size - 1, value.size(),
          NGHTTP2_NV_FLAG_NO_COPY_NAME};
}

const nghttp2_nv kOkHead[] = {Fixed(":status", "200"), Fixed("content-type", "application/grpc")};

// The headers that say how a call has ended, and the text they point into.
class Trailers {
 public:
  explicit Trailers(const absl::Status& status) {
    if (status.ok()) {
      headers_.push_back(Fixed("grpc-status", "0"));
      return;
    }
    const grpc::Status wire = rpc::ToGrpc(status);
    code_ = absl::StrCat(wire.error_code());
    headers_.push_back(Copied("grpc-status", code_));
    if (!wire.error_message().empty()) {
      message_ = PercentEncode(wire.error_message());
      headers_.push_back(Copied("grpc-message", message_));
    }
    if (!wire.error_details().empty()) {
      details_ = BinaryValue(wire.error_details());
      headers_.push_back(Copied("grpc-status-details-bin", details_));
    }
  }
  Trailers(const Trailers&) = delete;

  const std::vector<nghttp2_nv>& headers() const { return headers_; }

 private:
  std::string code_, message_, details_;
  std::vector<nghttp2_nv> headers_;
};

}  // namespace

void Session::Pump(ServerCall& call) {
  Stream* const stream = call.stream_;
  if (!stream) return;  // over
  const ServerCall::Unsent unsent = call.TakeTurn();
  Written(*stream);
  if (unsent.ended) {
    Deafen(*stream);
    stream->deadline.Cancel();
    stream->arrival.Cancel();
    stream->room.reset();
  }
  if (unsent.dropped) {
    stream->DropUnsent();
    TellCancel(*stream);
  }
  if (stream->ended) return;
  if (unsent.bytes > kLongAnswerBytes && !std::exchange(stream->incremental, true)) {
    const nghttp2_extpri turns = {.urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY, .inc = 1};
    nghttp2_session_change_extpri_stream_priority(session_, stream->id, &turns, 1);
  }
  if (!stream->responded) {
    if (unsent.bytes == 0 && unsent.ended) {
      SubmitRefusal(*stream, call.status());
    } else {
      SubmitHead(*stream);
    }
  } else if (std::exchange(stream->deferred, false)) {
    nghttp2_session_resume_data(session_, stream->id);
  }
}

void Session::Written(Stream& stream) {
  if (!std::exchange(stream.written, true)) written_.push_back(stream.id);
}

void Session::SettleUntaken() {
  for (const int32_t id : written_) {
    Stream* const stream = StreamOf(id);
    if (!stream) continue;  // all was taken
    stream->written = false;
    const ServerCall::Unsent unsent = stream->call->unsent();
    const size_t bytes = unsent.bytes + stream->sending.size() - stream->sent +
                         (unsent.ended ? kUntakenCallBytes : 0);
    if (bytes == 0) {
      stream->untaken_room.reset();
      continue;
    }
    const auto crowded = [this, stream] {
      nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream->id, NGHTTP2_ENHANCE_YOUR_CALM);
      overdrawn_ = true;
      outlet_->Wake();
    };
    if (!stream->untaken_room) stream->untaken_room.emplace(&thread_->untaken, crowded);
    if (!stream->untaken_room->Hold(bytes)) crowded();
  }
  written_.clear();
}

void Session::SubmitHead(Stream& stream) {
  stream.responded = true;
  const nghttp2_data_provider answer = {
      .source = {.ptr = &stream},
      .read_callback = [](nghttp2_session*, int32_t, uint8_t*, size_t length, uint32_t* flags,
                          nghttp2_data_source* source, void* self) {
        return Of(self).ReadAnswer(*static_cast<Stream*>(source->ptr), length, flags);
      }};
  nghttp2_submit_response(session_, stream.id, kOkHead, std::size(kOkHead), &answer);
}

void Session::SubmitRefusal(Stream& stream, const absl::Status& status) {
  stream.responded = stream.ended = true;
  const Trailers trailers(status);
  std::vector<nghttp2_nv> headers(std::begin(kOkHead), std::end(kOkHead));
  headers.insert(headers.end(), trailers.headers().begin(), trailers.headers().end());
  if (status.code() == absl::StatusCode::kUnimplemented) {
    headers.push_back(Fixed("grpc-accept-encoding", "identity, deflate, gzip"));
  }
  nghttp2_submit_response(session_, stream.id, headers.data(), headers.size(), nullptr);
}

void Session::SubmitHttpError(Stream& stream, int http_status) {
  stream.responded = stream.ended = true;
  const std::string text = absl::StrCat(http_status);
  const nghttp2_nv header = Copied(":status", text);
  nghttp2_submit_response(session_, stream.id, &header, 1, nullptr);
}

ssize_t Session::ReadAnswer(Stream& stream, size_t length, uint32_t* flags) {
  if (stream.sent == stream.sending.size() && !stream.last) {
    stream.last = stream.call->NextBytes(&stream.sending);
    stream.sent = stream.packed = 0;
  }
  const size_t left = stream.sending.size() - stream.sent;
  if (left == 0 && !stream.last) {
    stream.deferred = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  const size_t count = std::min(left, length);
  stream.packed = stream.sent + count;
  if (count == left && stream.last) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    stream.ended = true;
    const Trailers trailers(stream.call->status());
    nghttp2_submit_trailer(session_, stream.id, trailers.headers().data(),
                           trailers.headers().size());
  }
  if (count > 0) *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  return static_cast<ssize_t>(count);
}

int Session::SendData(Stream& stream, const uint8_t* frame_head, size_t length) {
  constexpr size_t kFrameHeadBytes = 9;
  if (output_->size() >= most_output_) return NGHTTP2_ERR_WOULDBLOCK;
  output_->append(reinterpret_cast<const char*>(frame_head), kFrameHeadBytes);
  output_->append(stream.sending, stream.sent, length);
  stream.sent += length;
  if (stream.untaken_room) Written(stream);
  sent_since_ping_ = true;
  Know(stream);
  return 0;
}

void Session::OnFrameSent(const nghttp2_frame& frame) {
  // A ping that is submitted with a GOAWAY overtakes it.
  if (frame.hd.type == NGHTTP2_GOAWAY && shutdown_ == Shutdown::kAnnounced) AskIfHeard();
  if (frame.hd.type != NGHTTP2_HEADERS || !(frame.hd.flags & NGHTTP2_FLAG_END_STREAM)) return;
  sent_since_ping_ = true;
  // The answer is complete: what the client still sends is not wanted (RFC 9113, section 8.1).
  const Stream* const stream = StreamOf(frame.hd.stream_id);
  if (stream && !stream->remote_ended) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR);
  }
}

}  // namespace conclave::h2
