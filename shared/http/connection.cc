#include "shared/http/connection.h"

#include <netinet/tcp.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "shared/http/refusals.h"
#include "shared/net/tls_context.h"

namespace conclave::http::internal {

namespace asio = boost::asio;
namespace beast_http = boost::beast::http;
using boost::system::error_code;

namespace {

// In this file co_await never stands to the right of && or ||: GCC 12 awaits there whatever the
// left side is.

// Pipelined requests that may wait while one is answered.
constexpr size_t kMaxReadAhead = 64 << 10;
// Of one read. What a stranger has sent is not taken in before the head says whether it is wanted.
constexpr size_t kReadBytes = 4 << 10;
constexpr size_t kReadBodyBytes = 16 << 10;
constexpr auto kLinger = std::chrono::seconds(1);
using QuickAcknowledgement = asio::detail::socket_option::boolean<IPPROTO_TCP, TCP_QUICKACK>;

std::string_view View(boost::beast::string_view text) { return {text.data(), text.size()}; }

}  // namespace

Connection::Connection(asio::ip::tcp::socket socket, std::shared_ptr<asio::io_context> io,
                       Shared* shared)
    : transport_(std::move(socket), shared->options.tls ? shared->options.tls->current() : nullptr),
      io_(std::move(io)),
      shared_(shared),
      wake_timer_(*io_, TimePoint::max()),
      deadline_timer_(*io_),
      input_room_timer_(*io_),
      peer_timer_(*io_) {}

void Connection::Start() {
  error_code error;
  asio::ip::tcp::socket& socket = transport_.socket();
  const auto remote = socket.remote_endpoint(error);
  if (!error) peer_ = remote.address().to_string();
  const auto local = socket.local_endpoint(error);
  if (!error) local_address_ = local.address().to_string();
  socket.set_option(asio::ip::tcp::no_delay(true), error);
  asio::co_spawn(
      *io_, [self = shared_from_this()] { return self->Begin(); }, asio::detached);
}

asio::awaitable<void> Connection::Begin() {
  const auto self = shared_from_this();
  if (transport_.encrypted()) {
    CloseIn(shared_->options.header_timeout);
    // One that says nothing costs nothing but its socket.
    error_code error = co_await transport_.WaitReadable();
    if (!error && !closed_) {
      net::Room::Holder place(shared_->handshakes, [this] { Close(); });
      place.Hold(1);
      error = co_await transport_.Handshake();
    }
    peer_timer_.cancel();
    if (error || closed_) {
      Close();
      shared_->closed(this);
      co_return;
    }
  }
  asio::co_spawn(
      *io_, [self] { return self->ReadLoop(); }, asio::detached);
  co_await Run();
}

void Connection::Drain() {
  draining_ = true;
  if (idle_) Close();
}

void Connection::Close() {
  if (closed_) return;
  closed_ = true;
  transport_.Close();
  peer_timer_.cancel();
  deadline_timer_.cancel();
  input_room_timer_.cancel();
  if (outgoing_) outgoing_->ClientGone();
  Wake();
}

asio::awaitable<void> Connection::ReadLoop() {
  const auto self = shared_from_this();
  while (!closed_) {
    if (input_.size() >= kMaxReadAhead) {
      error_code ignored;
      input_room_timer_.expires_at(TimePoint::max());
      co_await input_room_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
      continue;
    }
    const size_t most_bytes = reading_body_ ? kReadBodyBytes : kReadBytes;
    error_code error = co_await transport_.Read(most_bytes, &input_);
    if (error) {
      input_ended_ = true;
      if (outgoing_) outgoing_->ClientGone();
      Wake();
      co_return;
    }
    if (discard_input_) input_.clear();
    Wake();
  }
}

asio::awaitable<void> Connection::Run() {
  const auto self = shared_from_this();
  while (!closed_) {
    if (!co_await ServeOne()) break;
    // Many requests at once are one connection's turn each.
    if (!input_.empty()) co_await asio::post(*io_, asio::use_awaitable);
  }
  if (!closed_) co_await Linger();
  Close();
  shared_->closed(this);
}

asio::awaitable<void> Connection::Linger() {
  discard_input_ = true;
  std::string().swap(input_);
  input_room_timer_.cancel();
  const TimePoint deadline = std::chrono::steady_clock::now() + kLinger;
  CloseIn(kLinger);
  transport_.EndWriting();
  while (!input_ended_ && !closed_) {
    if (!co_await WaitUntil(deadline)) co_return;
  }
}

asio::awaitable<bool> Connection::ServeOne() {
  const ServerOptions& options = shared_->options;
  // A stray empty line between requests is allowed (RFC 9112, section 2.2).
  const auto skip_newlines = [this] {
    size_t skip = 0;
    while (skip < input_.size() && (input_[skip] == '\r' || input_[skip] == '\n')) ++skip;
    input_.erase(0, skip);
  };
  idle_ = true;
  const TimePoint idle_deadline = std::chrono::steady_clock::now() + options.idle_timeout;
  for (skip_newlines(); input_.empty(); skip_newlines()) {
    if (closed_ || draining_ || input_ended_) co_return false;
    if (!co_await WaitUntil(idle_deadline)) co_return false;
  }
  idle_ = false;

  Parser parser;
  parser.header_limit(static_cast<uint32_t>(options.max_header_bytes));
  parser.body_limit(options.max_body_bytes);
  head_only_ = keep_alive_ = chunked_ = false;
  std::optional<Response> failure;
  const TimePoint header_deadline = std::chrono::steady_clock::now() + options.header_timeout;
  if (!co_await Parse(parser, /*whole=*/false, header_deadline, &failure)) {
    if (failure) co_await WriteWhole(*failure);
    co_return false;
  }
  const auto& message = parser.get();
  head_only_ = message.method() == beast_http::verb::head;
  failure = RefuseHead(message, shared_->options, local_address_);
  if (failure) {
    co_await WriteWhole(*failure);  // closes: the body was not read
    co_return false;
  }
  const auto announced = parser.content_length();
  if (announced && *announced > kFreeBodyBytes && shared_->options.check_sender &&
      *announced <= options.max_body_bytes) {
    failure = shared_->options.check_sender(View(message[beast_http::field::authorization]));
    if (failure) {
      co_await WriteWhole(*failure);
      co_return false;
    }
  }
  if (boost::beast::iequals(message[beast_http::field::expect], "100-continue") &&
      !parser.is_done()) {
    if (!co_await Write("HTTP/1.1 100 Continue\r\n\r\n")) co_return false;
  }
  const TimePoint body_deadline = std::chrono::steady_clock::now() + options.body_timeout;
  reading_body_ = true;
  const bool arrived = co_await Parse(parser, /*whole=*/true, body_deadline, &failure);
  reading_body_ = false;
  body_room_.reset();
  if (!arrived) {
    // What came is of no use any more, and writing may take its time.
    std::string().swap(parser.get().body());
    discard_input_ = true;
    std::string().swap(input_);
    if (failure) co_await WriteWhole(*failure);
    co_return false;
  }
  keep_alive_ = parser.keep_alive() && !AsksToClose(message) && !draining_ && !shared_->ending;
  chunked_ = message.version() >= 11;

  Request request;
  request.method = head_only_ ? "GET" : std::string(message.method_string());
  request.peer = peer_;
  const std::string_view target = View(message.target());
  const size_t question = target.find('?');
  if (question != std::string_view::npos) request.query = target.substr(question + 1);
  if (!PercentDecode(target.substr(0, question), &request.path)) {
    co_return co_await WriteWhole(
        Failure(400, "the path has a malformed %-escape", "malformed_request")) &&
        keep_alive_;
  }
  constexpr size_t kUsualHeaders = 16;
  request.headers.reserve(kUsualHeaders);
  for (const auto& field : message) {
    request.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  }
  request.body = std::move(parser.get().body());

  const Router::Match match = shared_->router.Find(request.method, request.path);
  if (!match.route) {
    Response response =
        match.allow.empty()
            ? Failure(404, absl::StrCat("there is nothing at ", request.path.substr(0, 200)),
                      "not_found")
            : Failure(405,
                      absl::StrCat(request.path.substr(0, 200), " takes ", match.allow, ", not ",
                                   request.method.substr(0, 20)),
                      "method_not_allowed");
    if (!match.allow.empty()) response.headers.emplace_back("Allow", match.allow);
    co_return co_await WriteWhole(response) && keep_alive_;
  }
  co_return co_await Answer(std::move(request), *match.route);
}

asio::awaitable<bool> Connection::Parse(Parser& parser, bool whole, TimePoint deadline,
                                        std::optional<Response>* failure) {
  parser.eager(whole);
  while (whole ? !parser.is_done() : !parser.is_header_done()) {
    error_code error;
    if (!input_.empty()) {
      const size_t used = parser.put(asio::buffer(input_), error);
      input_.erase(0, used);
      input_room_timer_.cancel();
      if (!error) continue;
      if (error != beast_http::error::need_more) {
        *failure = ParseFailure(error, shared_->options,
                                View(parser.get()[beast_http::field::content_length]));
        co_return false;
      }
    }
    if (!whole && input_.size() > shared_->options.max_header_bytes) {
      *failure = ParseFailure(beast_http::error::header_limit, shared_->options, "");
      co_return false;
    }
    if (closed_ || input_ended_) co_return false;
    if (whole && !AdmitBody(parser, failure)) co_return false;
    Acknowledge();
    if (!co_await WaitUntil(deadline)) {
      *failure = Failure(
          408, whole ? "the body did not arrive in time" : "the headers did not arrive in time",
          "request_timeout");
      co_return false;
    }
  }
  co_return true;
}

bool Connection::AdmitBody(Parser& parser, std::optional<Response>* failure) {
  // The parser takes a body as it comes, but each line between chunks whole.
  if (input_.size() > shared_->options.max_header_bytes) {
    *failure = Failure(400,
                       absl::StrCat("the line of a chunk or the trailers are larger than ",
                                    shared_->options.max_header_bytes, " bytes"),
                       "malformed_request");
    return false;
  }
  const size_t arrived = parser.get().body().size();
  if (arrived <= kFreeBodyBytes) return true;
  if (!body_room_) {
    if (shared_->options.check_sender) {
      *failure =
          shared_->options.check_sender(View(parser.get()[beast_http::field::authorization]));
      if (*failure) return false;
    }
    body_room_.emplace(shared_->arriving, [this] { Wake(); });
  }
  if (body_room_->Hold(arrived)) return true;
  *failure = Failure(503, "too many bodies are arriving, and this one took longest; try again",
                     "overloaded");
  (*failure)->headers.emplace_back("Retry-After", "1");
  return false;
}

asio::awaitable<bool> Connection::Answer(Request request, const Server::Route& route) {
  outgoing_ = std::make_shared<Outgoing>(shared_->options.max_unsent_bytes,
                                         [io = io_, weak = weak_from_this()] {
                                           asio::post(*io, [weak] {
                                             if (const auto self = weak.lock()) self->OnOutput();
                                           });
                                         });
  const auto outgoing = outgoing_;
  Handle(std::make_shared<Exchange>(std::move(request), outgoing), route);
  if (input_ended_) outgoing->ClientGone();

  bool alive = true;
  bool streaming = false;
  TimePoint last_write = std::chrono::steady_clock::now();
  while (alive && !closed_) {
    Outgoing::Batch batch = outgoing->Take();
    if (batch.close) {
      alive = false;
      break;
    }
    if (batch.whole) {
      alive = co_await WriteWhole(*batch.whole) && keep_alive_;
      break;
    }
    std::string bytes;
    if (batch.head) {
      streaming = true;
      if (!chunked_) keep_alive_ = false;  // HTTP/1.0: the end of the connection ends the answer
      bytes = Head(200, batch.head->content_type, batch.head->headers,
                   chunked_ ? "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n"
                            : "Cache-Control: no-cache\r\n");
    }
    if (!batch.bytes.empty() && !head_only_) {
      if (chunked_) absl::StrAppend(&bytes, absl::Hex(batch.bytes.size()), "\r\n");
      absl::StrAppend(&bytes, batch.bytes, chunked_ ? "\r\n" : "");
    }
    if (batch.ended && streaming && chunked_ && !head_only_) bytes += "0\r\n\r\n";
    if (!bytes.empty()) {
      alive = co_await Write(std::move(bytes));
      last_write = std::chrono::steady_clock::now();
    }
    if (batch.ended) {
      alive = alive && keep_alive_;
      break;
    }
    // A client that has gone ends a stream; a whole answer may still reach one that only closed its
    // sending side.
    if (input_ended_ && batch.stream) {
      alive = false;
      break;
    }
    const bool beats = batch.heartbeat_period > Duration(0);
    const TimePoint deadline = beats ? last_write + batch.heartbeat_period : TimePoint::max();
    if (!alive) break;
    if (!batch.stream) Acknowledge();  // the answer takes its time
    if (!co_await WaitUntil(deadline) && beats) outgoing->Beat();
  }
  if (alive) {
    outgoing->Completed();
  } else {
    outgoing->ClientGone();
  }
  outgoing_.reset();
  co_return alive;
}

void Connection::Handle(std::shared_ptr<Exchange> exchange, const Server::Route& route) {
  Server::Rest rest;
  if (route.quick && exchange->request().body.size() <= kQuickBodyBytes) {
    rest = route.quick(exchange);
    if (!rest) return;
  } else {
    rest = [handler = &route.handler, exchange] { (*handler)(exchange); };
  }
  if (!shared_->post_to_worker(std::move(rest))) {
    exchange->Respond(Failure(503, "too many requests wait for this server", "overloaded"));
  }
}

asio::awaitable<bool> Connection::WriteWhole(const Response& response) {
  std::string bytes = Head(response.status, response.content_type, response.headers,
                           absl::StrCat("Content-Length: ", response.body.size(), "\r\n"));
  if (!head_only_) bytes += response.body;
  co_return co_await Write(std::move(bytes));
}

asio::awaitable<bool> Connection::Write(std::string bytes) {
  if (closed_) co_return false;
  error_code error;
  const size_t written = transport_.WriteSome(bytes, &error);
  if (error) co_return false;
  if (written == bytes.size()) co_return true;
  CloseIn(shared_->options.write_timeout);
  error = co_await transport_.Write(std::string_view(bytes).substr(written));
  peer_timer_.cancel();
  co_return !error;
}

void Connection::CloseIn(Duration patience) {
  peer_timer_.expires_after(patience);
  peer_timer_.async_wait([weak = weak_from_this()](error_code error) {
    if (error) return;
    if (const auto self = weak.lock()) self->Close();
  });
}

std::string Connection::Head(int status, const std::string& content_type, const Headers& headers,
                             std::string_view framing) const {
  const std::string_view reason = ReasonPhrase(status);
  std::string head = absl::StrCat(
      "HTTP/1.1 ", status, " ", absl::string_view(reason.data(), reason.size()),
      "\r\nContent-Type: ", content_type,
      "\r\nX-Content-Type-Options: nosniff\r\nConnection: ", keep_alive_ ? "keep-alive" : "close",
      "\r\n");
  for (const auto& [name, value] : headers) {
    absl::StrAppend(&head, name, ": ");
    const size_t begin = head.size();
    absl::StrAppend(&head, value, "\r\n");
    // A handler that echoes what a client sent cannot be made to split the answer.
    for (size_t i = begin; i < begin + value.size(); ++i) {
      if (absl::ascii_iscntrl(static_cast<unsigned char>(head[i]))) head[i] = ' ';
    }
  }
  head.append(framing).append("\r\n");
  return head;
}

asio::awaitable<bool> Connection::WaitUntil(TimePoint deadline) {
  if (!woken_) {
    error_code ignored;
    deadline_ = deadline;
    SetDeadlineTimer();
    co_await wake_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    deadline_ = TimePoint::max();
  }
  co_return std::exchange(woken_, false) || closed_;
}

void Connection::SetDeadlineTimer() {
  if (closed_ || deadline_set_ <= deadline_) return;
  deadline_set_ = deadline_;
  deadline_timer_.expires_at(deadline_);
  deadline_timer_.async_wait([weak = weak_from_this()](error_code error) {
    const auto self = weak.lock();
    if (error || !self) return;
    self->deadline_set_ = TimePoint::max();
    if (self->deadline_ <= std::chrono::steady_clock::now()) {
      self->wake_timer_.cancel();
    } else {
      self->SetDeadlineTimer();
    }
  });
}

void Connection::Acknowledge() {
  // It otherwise delays that by 40 ms in the hope of an answer to put it on. It forgets the setting
  // again and again.
  error_code ignored;
  transport_.socket().set_option(QuickAcknowledgement(true), ignored);
}

void Connection::OnOutput() {
  // At once, and not when the write that the client does not take has timed out.
  if (outgoing_ && outgoing_->overflowed()) Close();
  Wake();
}

void Connection::Wake() {
  woken_ = true;
  wake_timer_.cancel();
}

}  // namespace conclave::http::internal
