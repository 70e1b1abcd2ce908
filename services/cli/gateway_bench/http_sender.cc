#include "services/cli/gateway_bench/http_sender.h"

#include <array>
#include <charconv>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/address.h"

namespace conclave::cli {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr std::string_view kHeadEnd = "\r\n\r\n";
constexpr std::string_view kLastChunk = "0\r\n\r\n";

// An answer while it arrives; nothing follows it before the next request.
class Answer {
 public:
  void Clear() {
    bytes_.clear();
    head_ = 0;
  }
  void Append(const char* data, size_t size) { bytes_.append(data, size); }

  bool whole() {
    if (head_ == 0) {
      const size_t end = bytes_.find(kHeadEnd);
      if (end == std::string::npos) return false;
      head_ = end + kHeadEnd.size();
      length_ = ContentLength();
    }
    if (length_ >= 0) return bytes_.size() >= head_ + static_cast<size_t>(length_);
    return bytes_.size() >= head_ + kLastChunk.size() && bytes_.ends_with(kLastChunk);
  }

  absl::Status status() const {
    if (bytes_.starts_with("HTTP/1.1 200 ")) return absl::OkStatus();
    const std::string line = bytes_.substr(0, bytes_.find('\r'));
    return absl::UnavailableError(
        absl::StrCat("HTTP answer \"", line, "\": ", bytes_.substr(head_, 300)));
  }

  std::string body() const {
    if (length_ >= 0) return bytes_.substr(head_);
    std::string body;
    for (size_t at = head_; at < bytes_.size();) {
      size_t size = 0;
      const auto end = std::from_chars(bytes_.data() + at, bytes_.data() + bytes_.size(), size, 16);
      if (size == 0) break;
      at = static_cast<size_t>(end.ptr - bytes_.data()) + 2;
      body.append(bytes_, at, size);
      at += size + 2;
    }
    return body;
  }

 private:
  // -1: in chunks.
  int64_t ContentLength() const {
    constexpr std::string_view kName = "\r\nContent-Length: ";
    const size_t at = std::string_view(bytes_).substr(0, head_).find(kName);
    if (at == std::string_view::npos) return -1;
    int64_t length = 0;
    std::from_chars(bytes_.data() + at + kName.size(), bytes_.data() + head_, length);
    return length;
  }

  std::string bytes_;
  size_t head_ = 0;  // bytes of the head; 0: it has not ended
  int64_t length_ = -1;
};

struct Order {
  std::shared_ptr<const std::string> request;
  HttpSender::Answered answered;
  SentDone done;
};

}  // namespace

std::string HttpRequest(std::string_view path, std::string_view api_key, std::string_view body) {
  std::string request = "POST ";
  request.append(path);
  request.append(" HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
  if (!api_key.empty()) request.append("Authorization: Bearer ").append(api_key).append("\r\n");
  request.append("Content-Length: ").append(std::to_string(body.size())).append(kHeadEnd);
  request.append(body);
  return request;
}

class HttpSender::Loop {
 public:
  Loop(const std::string& address, int32_t connections, Serving serving)
      : loop_(serving, "bench-http") {
    const auto parsed = ParseAddress(address);
    error_code error;
    if (parsed.ok()) {
      endpoint_ = {asio::ip::make_address(parsed->host, error),
                   static_cast<uint16_t>(parsed->port)};
    }
    for (int32_t i = 0; i < connections; ++i) {
      connections_.push_back(std::make_unique<Connection>(loop_.io()));
      free_.push_back(connections_.back().get());
    }
    loop_.Start();
  }
  ~Loop() { loop_.Stop(); }

  void Send(Order order) {
    asio::post(loop_.io(), [this, order = std::move(order)]() mutable {
      if (free_.empty()) {
        waiting_.push_back(std::move(order));
        return;
      }
      Connection* const connection = free_.back();
      free_.pop_back();
      Start(connection, std::move(order));
    });
  }
  void Poll() { loop_.Poll(); }

 private:
  struct Connection {
    explicit Connection(asio::io_context& io) : socket(io) {}
    asio::ip::tcp::socket socket;
    std::array<char, 16 << 10> buffer;
    Order order;
    Answer answer;
  };

  // All of the following on the loop's thread.
  void Start(Connection* connection, Order order) {
    connection->order = std::move(order);
    connection->answer.Clear();
    error_code error;
    if (!connection->socket.is_open()) {
      connection->socket.connect(endpoint_, error);  // of this host: at once
      if (!error) connection->socket.set_option(asio::ip::tcp::no_delay(true), error);
    }
    if (error) {
      Finish(connection, absl::UnavailableError("HTTP: " + error.message()));
      return;
    }
    asio::async_write(connection->socket, asio::buffer(*connection->order.request),
                      [this, connection](error_code failed, size_t) {
                        failed ? Finish(connection, absl::UnavailableError(failed.message()))
                               : Read(connection);
                      });
  }

  void Read(Connection* connection) {
    connection->socket.async_read_some(
        asio::buffer(connection->buffer), [this, connection](error_code failed, size_t size) {
          if (failed) {
            Finish(connection, absl::UnavailableError("HTTP: " + failed.message()));
            return;
          }
          connection->answer.Append(connection->buffer.data(), size);
          if (!connection->answer.whole()) {
            Read(connection);
            return;
          }
          Finish(connection, connection->answer.status());
        });
  }

  void Finish(Connection* connection, const absl::Status& status) {
    const Order order = std::move(connection->order);
    if (status.ok() && order.answered) order.answered(connection->answer.body());
    if (!status.ok()) {
      error_code ignored;
      connection->socket.close(ignored);
    }
    if (waiting_.empty()) {
      free_.push_back(connection);
    } else {
      Order next = std::move(waiting_.front());
      waiting_.pop_front();
      Start(connection, std::move(next));
    }
    order.done(status);
  }

  ClientLoop loop_;
  asio::ip::tcp::endpoint endpoint_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::vector<Connection*> free_;
  std::deque<Order> waiting_;
};

HttpSender::HttpSender(const std::string& address, int32_t connections, Serving serving)
    : loop_(std::make_unique<Loop>(address, connections, serving)) {}
HttpSender::~HttpSender() = default;

void HttpSender::Send(std::shared_ptr<const std::string> request, Answered answered,
                      SentDone done) {
  loop_->Send(
      {.request = std::move(request), .answered = std::move(answered), .done = std::move(done)});
}

void HttpSender::Poll() { loop_->Poll(); }

}  // namespace conclave::cli
