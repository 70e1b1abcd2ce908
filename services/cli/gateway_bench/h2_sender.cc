#include "services/cli/gateway_bench/h2_sender.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/address.h"
#include "shared/base/mutex.h"
#include "shared/net/asio.h"

namespace conclave::cli {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

// Answers of so many calls at once need not wait for a window.
constexpr int32_t kWindow = 16 << 20;

// What every call sends.
struct Request {
  std::string path, authorization;
  std::string message;  // with its prefix of five bytes

  static nghttp2_nv Header(std::string_view name, std::string_view value) {
    return {reinterpret_cast<uint8_t*>(const_cast<char*>(name.data())),
            reinterpret_cast<uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE};
  }
};

std::string Framed(std::string_view message) {
  std::string framed(1, '\0');  // not compressed
  for (const int shift : {24, 16, 8, 0})
    framed.push_back(static_cast<char>(message.size() >> shift));
  return framed.append(message);
}

struct Call {
  const Request* request = nullptr;
  size_t sent = 0;  // of the message
  int status = -1;  // what the trailers say
  SentDone done;
};

// One connection, on the loop's thread.
class Connection {
 public:
  Connection(asio::io_context& io, const asio::ip::tcp::endpoint& endpoint) : socket_(io) {
    error_code error;
    socket_.connect(endpoint, error);  // of this host: at once
    if (!error) socket_.set_option(asio::ip::tcp::no_delay(true), error);
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, OnHeader);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, OnClosed);
    nghttp2_session_client_new(&session_, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<uint32_t>(kWindow)},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kWindow);
    error ? Fail() : Read();
  }
  ~Connection() {
    nghttp2_session_del(session_);
    Fail();
  }
  Connection(const Connection&) = delete;

  void Begin(const Request& request, SentDone done) {
    if (ended_) {
      done(absl::UnavailableError("the connection has ended"));
      return;
    }
    auto call = std::make_unique<Call>();
    call->request = &request;
    call->done = std::move(done);
    const nghttp2_nv headers[] = {Request::Header(":method", "POST"),
                                  Request::Header(":scheme", "http"),
                                  Request::Header(":path", request.path),
                                  Request::Header(":authority", "localhost"),
                                  Request::Header("content-type", "application/grpc"),
                                  Request::Header("te", "trailers"),
                                  Request::Header("authorization", request.authorization)};
    const nghttp2_data_provider body = {.source = {.ptr = call.get()},
                                        .read_callback = ReadMessage};
    const int32_t id =
        nghttp2_submit_request(session_, nullptr, headers, std::size(headers), &body, call.get());
    if (id < 0) {
      call->done(absl::UnavailableError("the connection takes no more calls"));
      return;
    }
    calls_.emplace(id, std::move(call));
  }

  // Sends what was begun.
  void Flush() {
    if (writing_ || ended_) return;
    output_.clear();
    const uint8_t* data = nullptr;
    for (ssize_t size; (size = nghttp2_session_mem_send(session_, &data)) > 0;) {
      output_.append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
    }
    if (output_.empty()) return;
    writing_ = true;
    asio::async_write(socket_, asio::buffer(output_), [this](error_code failed, size_t) {
      writing_ = false;
      failed ? Fail() : Flush();
    });
  }

 private:
  static ssize_t ReadMessage(nghttp2_session*, int32_t, uint8_t* to, size_t room, uint32_t* flags,
                             nghttp2_data_source* source, void*) {
    Call& call = *static_cast<Call*>(source->ptr);
    const size_t count = call.request->message.copy(reinterpret_cast<char*>(to), room, call.sent);
    call.sent += count;
    if (call.sent == call.request->message.size()) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(count);
  }
  static int OnHeader(nghttp2_session* session, const nghttp2_frame* frame, const uint8_t* name,
                      size_t name_size, const uint8_t* value, size_t value_size, uint8_t, void*) {
    const auto* const digits = reinterpret_cast<const char*>(value);
    const std::string_view header(reinterpret_cast<const char*>(name), name_size);
    if (header == "grpc-status") {
      auto* const call =
          static_cast<Call*>(nghttp2_session_get_stream_user_data(session, frame->hd.stream_id));
      std::from_chars(digits, digits + value_size, call->status);
    }
    return 0;
  }
  static int OnClosed(nghttp2_session*, int32_t id, uint32_t, void* self) {
    auto& calls = static_cast<Connection*>(self)->calls_;
    const auto found = calls.find(id);
    if (found == calls.end()) return 0;
    const std::unique_ptr<Call> call = std::move(found->second);
    calls.erase(found);
    call->done(call->status == 0  ? absl::OkStatus()
               : call->status > 0 ? absl::Status(static_cast<absl::StatusCode>(call->status),
                                                 "the call has failed")
                                  : absl::UnavailableError("the call has no status"));
    return 0;
  }

  void Read() {
    socket_.async_read_some(asio::buffer(input_), [this](error_code failed, size_t size) {
      if (failed || nghttp2_session_mem_recv(
                        session_, reinterpret_cast<const uint8_t*>(input_.data()), size) < 0) {
        Fail();
        return;
      }
      Flush();
      Read();
    });
  }
  void Fail() {
    ended_ = true;
    for (const auto& [id, call] : std::exchange(calls_, {})) {
      call->done(absl::UnavailableError("the connection has ended"));
    }
  }

  asio::ip::tcp::socket socket_;
  nghttp2_session* session_ = nullptr;
  std::array<char, 64 << 10> input_;
  std::string output_;
  bool writing_ = false, ended_ = false;
  std::unordered_map<int32_t, std::unique_ptr<Call>> calls_;
};

}  // namespace

class H2Sender::Loop {
 public:
  Loop(const std::string& address, int32_t connections, Serving serving, Request request)
      : loop_(serving, "bench-h2"), request_(std::move(request)) {
    asio::ip::tcp::endpoint endpoint;
    error_code error;
    if (const auto parsed = ParseAddress(address); parsed.ok()) {
      endpoint = {asio::ip::make_address(parsed->host, error), static_cast<uint16_t>(parsed->port)};
    }
    for (int32_t i = 0; i < connections; ++i) {
      connections_.push_back(std::make_unique<Connection>(loop_.io(), endpoint));
    }
    loop_.Start();
  }
  ~Loop() {
    loop_.Stop();
    connections_.clear();
    for (const SentDone& done : TakeWaiting()) {
      done(absl::UnavailableError("the client has ended"));
    }
  }

  void Send(SentDone done) EXCLUDES(mutex_) {
    bool first = false;
    {
      MutexLock lock(mutex_);
      first = waiting_.empty();
      waiting_.push_back(std::move(done));
    }
    if (first) asio::post(loop_.io(), [this] { BeginWaiting(); });
  }
  void Poll() { loop_.Poll(); }

 private:
  std::vector<SentDone> TakeWaiting() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return std::exchange(waiting_, {});
  }
  void BeginWaiting() {
    for (SentDone& done : TakeWaiting()) {
      connections_[next_++ % connections_.size()]->Begin(request_, std::move(done));
    }
    for (const auto& connection : connections_) connection->Flush();
  }

  ClientLoop loop_;
  const Request request_;
  std::vector<std::unique_ptr<Connection>> connections_;
  size_t next_ = 0;
  Mutex mutex_;
  std::vector<SentDone> waiting_ GUARDED_BY(mutex_);
};

H2Sender::H2Sender(const std::string& address, int32_t connections, std::string path,
                   const std::string& api_key, std::string_view message, Serving serving)
    : loop_(std::make_unique<Loop>(address, connections, serving,
                                   Request{.path = std::move(path),
                                           .authorization = absl::StrCat("Bearer ", api_key),
                                           .message = Framed(message)})) {}
H2Sender::~H2Sender() = default;

void H2Sender::Send(SentDone done) { loop_->Send(std::move(done)); }

void H2Sender::Poll() { loop_->Poll(); }

}  // namespace conclave::cli
