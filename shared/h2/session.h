// HTTP/2 and gRPC on one connection: frames in, calls made and fed, frames out.
//
// Used on the connection's I/O thread; does no I/O of its own.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "shared/h2/allowance.h"
#include "shared/h2/io_thread.h"
#include "shared/h2/outlet.h"
#include "shared/h2/stream.h"

namespace conclave::h2 {

// What a client sends first (RFC 9113, section 3.4).
inline constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

class Session {
 public:
  // `thread` outlives this.
  Session(IoThread* thread, std::shared_ptr<Outlet> outlet);
  // Cancels the calls that have not ended.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Takes what has arrived, from the preface on. False: nothing more can be read; what Produce
  // gives may still be sent.
  bool Receive(std::string_view bytes);
  // Turns what calls have written into frames and appends them, up to about `most` bytes.
  void Produce(std::string* output, size_t most);
  // In its place while nothing can be sent: looks at what calls have written. False: it is too much
  // for a client that does not read.
  bool Wait();
  // So much waits to be produced that reading has to wait.
  bool congested() const;

  // The client has sent its settings.
  bool greeted() const { return greeted_; }
  // A service has worked on a call or answered it with a message, or its sender was accepted;
  // health checks and reflection apart, which anybody may ask for.
  bool known() const { return known_; }
  size_t num_calls() const { return streams_.size(); }
  // When the last frame was whole.
  TimePoint last_frame() const { return last_frame_; }

  // Asks for a sign of life; answered() is false until it comes.
  void Ping();
  bool answered() const { return answered_; }

  // No new calls, after those that the client has already sent: a first GOAWAY that refuses none,
  // and one that says which was the last when the client has heard of the first. Two pings tell
  // when: a client may answer the first before it writes calls that it had begun.
  void BeginShutdown();
  void FinishShutdown();
  // Ends all calls with `status`.
  void FailAll(const absl::Status& status);
  // Nothing is left to be done.
  bool finished() const;

 private:
  enum class Shutdown { kNo, kAnnounced, kHeard, kDue, kTold };

  static nghttp2_session_callbacks* Callbacks();
  static Session& Of(void* user_data) { return *static_cast<Session*>(user_data); }
  Stream* StreamOf(int32_t id) const;
  // The stream's call says that the client is somebody.
  void Know(const Stream& stream);

  // The client's frames.
  void OnBeginHeaders(int32_t id);
  void OnFrame(const nghttp2_frame& frame);
  void OnPing(const nghttp2_ping& ping);
  void OnData(Stream& stream, std::string_view bytes);
  void OnFrameSent(const nghttp2_frame& frame);
  void OnClosed(Stream& stream);
  // Takes one of what a client may not do too often; ends the connection when there is none left.
  void CountNuisance();
  void AskIfHeard();
  // The GOAWAY that names the last call, written at once: until then calls may begin, and a client
  // would send those above it again.
  void SubmitLastGoaway();
  // Ends the connection: ENHANCE_YOUR_CALM.
  void Terminate();

  // A call's life.
  void Begin(Stream& stream);
  void HalfClose(Stream& stream);
  absl::Status MayArrive(Stream& stream, size_t bytes);
  // Holds room for what is arriving, after everything of one read was taken.
  void Touch(Stream& stream);
  void SettleArrivals();
  void SettleArrival(Stream& stream);
  void Fail(Stream& stream, const absl::Status& status);
  // What still comes for the stream is thrown away.
  void Deafen(Stream& stream);
  void TellCancel(Stream& stream);
  // The stream is over. True: its call had not ended.
  bool Detach(Stream& stream);

  // The answers.
  // Looks at what calls have written, and tells those that it was too much. False: at none.
  bool TakeWritten();
  void Pump(ServerCall& call);
  // Lists the stream for SettleUntaken, which holds room for what could not be sent.
  void Written(Stream& stream);
  void SettleUntaken();
  void SubmitHead(Stream& stream);
  void SubmitRefusal(Stream& stream, const absl::Status& status);
  void SubmitHttpError(Stream& stream, int http_status);
  ssize_t ReadAnswer(Stream& stream, size_t length, uint32_t* flags);
  int SendData(Stream& stream, const uint8_t* frame_head, size_t length);

  IoThread* const thread_;
  const ServerOptions& options_;
  const std::shared_ptr<Outlet> outlet_;
  nghttp2_session* session_ = nullptr;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<Stream*> touched_;  // in what is being received
  std::vector<int32_t> written_;  // streams of which something was written or sent
  bool overdrawn_ = false;        // resets of those that held too much are still to be sent
  std::string* output_ = nullptr;
  size_t most_output_ = 0;

  TimePoint now_{};  // of what is being received
  TimePoint last_frame_{};
  Allowance nuisances_;
  bool greeted_ = false;
  bool known_ = false;
  bool answered_ = true;
  bool sent_since_ping_ = false;
  Shutdown shutdown_ = Shutdown::kNo;
};

}  // namespace conclave::h2
