#include "shared/http/http_call.h"

// clang-format off
#include <utility>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
// clang-format on

#include <ctime>
#include <type_traits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace conclave::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;

using Request = beast::http::request<beast::http::string_body>;
using Plain = beast::tcp_stream;
using Encrypted = beast::ssl_stream<beast::tcp_stream>;

constexpr uint64_t kMaxAnswerBytes = 4 << 20;

int64_t ExpiryOf(SSL* tls) {
  X509* const certificate = SSL_get1_peer_certificate(tls);
  if (certificate == nullptr) return 0;
  std::tm until{};
  const bool read = ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &until) == 1;
  X509_free(certificate);
  return read ? static_cast<int64_t>(timegm(&until)) : 0;
}

// One exchange; its steps call each other on the io_context.
template <typename Stream>
class Exchange {
 public:
  template <typename... Tls>
  Exchange(asio::io_context& io, Request request, Tls&... tls)
      : resolver_(io), stream_(io, tls...), request_(std::move(request)) {
    parser_.body_limit(kMaxAnswerBytes);
  }

  void Start(const HttpCall& call) {
    if constexpr (kEncrypted) {
      boost::system::error_code not_a_number;
      asio::ip::make_address(call.host, not_a_number);
      // A certificate is looked for by name, which a number is not.
      if (not_a_number) SSL_set_tlsext_host_name(stream_.native_handle(), call.host.c_str());
      stream_.set_verify_callback(asio::ssl::host_name_verification(call.host));
    }
    beast::get_lowest_layer(stream_).expires_after(call.timeout);
    resolver_.async_resolve(call.host, call.port, [this](beast::error_code error, auto found) {
      if (error) return Fail("resolve", error);
      beast::get_lowest_layer(stream_).async_connect(found, [this](beast::error_code failed, auto) {
        if (failed) return Fail("connect", failed);
        ShakeHands();
      });
    });
  }

  // Ends what is under way.
  void Abort() {
    resolver_.cancel();
    beast::get_lowest_layer(stream_).close();
  }

  bool done() const { return done_; }
  const std::string& failure() const { return failure_; }
  bool tls_failed() const { return tls_failed_; }
  HttpCallAnswer TakeAnswer() {
    HttpCallAnswer answer{static_cast<int>(parser_.get().result_int()),
                          std::move(parser_.get().body()), 0};
    if constexpr (kEncrypted) {
      answer.certificate_expires_unix_s = ExpiryOf(stream_.native_handle());
    }
    return answer;
  }

 private:
  static constexpr bool kEncrypted = std::is_same_v<Stream, Encrypted>;

  void ShakeHands() {
    if constexpr (kEncrypted) {
      stream_.async_handshake(asio::ssl::stream_base::client, [this](beast::error_code failed) {
        if (!failed) return Ask();
        tls_failed_ = failed.category() == asio::error::get_ssl_category();
        Fail("TLS", failed);
      });
    } else {
      Ask();
    }
  }

  void Ask() {
    beast::http::async_write(stream_, request_, [this](beast::error_code unwritten, size_t) {
      if (unwritten) return Fail("write", unwritten);
      beast::http::async_read(stream_, buffer_, parser_, [this](beast::error_code unread, size_t) {
        if (unread) return Fail("read", unread);
        done_ = true;
      });
    });
  }

  void Fail(const char* step, const beast::error_code& error) {
    failure_ = absl::StrCat(step, ": ", error.message());
  }

  asio::ip::tcp::resolver resolver_;
  Stream stream_;
  Request request_;
  beast::flat_buffer buffer_;
  beast::http::response_parser<beast::http::string_body> parser_;
  bool done_ = false, tls_failed_ = false;
  std::string failure_;
};

template <typename Stream, typename... Tls>
absl::StatusOr<HttpCallAnswer> Run(const HttpCall& call, Request request, Tls&... tls) {
  asio::io_context io;
  Exchange<Stream> exchange(io, std::move(request), tls...);
  exchange.Start(call);
  // The stream's own timeout covers all but the look-up of the name.
  io.run_for(call.timeout);
  HttpCallAnswer answer;
  if (exchange.done()) answer = exchange.TakeAnswer();
  exchange.Abort();
  io.restart();
  io.poll();
  if (exchange.done()) return answer;
  const std::string why = absl::StrCat(
      call.tls ? "https://" : "http://", call.host, ":", call.port, call.path, ": ",
      exchange.failure().empty() ? absl::StrCat("no answer in ", call.timeout.count(), " ms")
                                 : exchange.failure());
  if (exchange.tls_failed()) return absl::FailedPreconditionError(why);
  return absl::UnavailableError(why);
}

absl::Status Trust(const HttpCall& call, asio::ssl::context& tls) {
  tls.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 |
                  asio::ssl::context::no_tlsv1_1);
  tls.set_verify_mode(asio::ssl::verify_peer);
  beast::error_code unusable;
  if (call.authorities_pem.empty()) {
    tls.set_default_verify_paths(unusable);
  } else {
    tls.add_certificate_authority(asio::buffer(call.authorities_pem), unusable);
  }
  if (!unusable) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("https://", call.host, ":", call.port, call.path,
                   ": the authorities are no certificates: ", unusable.message()));
}

}  // namespace

absl::StatusOr<HttpCallAnswer> CallHttp(const HttpCall& call) {
  Request request(beast::http::string_to_verb(call.method), call.path, 11);
  const bool six = absl::StrContains(call.host, ":");
  request.set(beast::http::field::host, six ? absl::StrCat("[", call.host, "]:", call.port)
                                            : absl::StrCat(call.host, ":", call.port));
  request.set(beast::http::field::connection, "close");
  for (const auto& [name, value] : call.headers) request.set(name, value);
  request.body() = call.body;
  request.prepare_payload();
  if (!call.tls) return Run<Plain>(call, std::move(request));
  asio::ssl::context tls(asio::ssl::context::tls_client);
  if (absl::Status trusted = Trust(call, tls); !trusted.ok()) return trusted;
  return Run<Encrypted>(call, std::move(request), tls);
}

}  // namespace conclave::http
