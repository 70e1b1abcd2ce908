// One client connection: its socket, its times, and its end.
//
// All methods run on its I/O thread. Kept alive by the thread's map until it is closed.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "shared/h2/byte_stream.h"
#include "shared/h2/io_thread.h"
#include "shared/h2/outlet.h"
#include "shared/h2/session.h"

namespace conclave::h2 {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // `descriptor`: an accepted socket that does not block. The thread outlives this.
  Connection(IoThread* thread, int descriptor);

  void Start();
  // Tells the client to send no new calls; closes when the last has ended.
  void Drain();
  // Ends all calls with `status`, tells so, and closes.
  void End(const absl::Status& status);
  // Closes at once; calls are cancelled.
  void Close();

  // No call of its has been worked on or answered yet.
  bool newcomer() const { return !known_; }
  // It has no calls.
  bool idle() const { return !session_ || session_->num_calls() == 0; }
  TimePoint started() const { return started_; }
  // When the client last sent a frame, or its connection was made.
  TimePoint last_sign() const { return session_ ? session_->last_frame() : started_; }

 private:
  enum class Phase { kHandshake, kPreface, kOpen, kLinger, kClosed };

  void WaitReadable();
  void WaitWritable();
  void Await(boost::asio::posix::stream_descriptor::wait_type what, bool* waits,
             void (Connection::*then)());
  void OnReadable();
  void OnWritable();
  void StepHandshake();
  void ReadInput();
  // Reads once and takes what has come. True: there may be more; else it waits for it, or is
  // closed.
  bool ReadPiece(std::span<char> room);
  // Nothing has been answered yet: reads a piece when its turn comes.
  void AwaitTurn();
  void TakeTurn();
  void TakeInput(std::string_view bytes);
  // Makes the session when the whole preface has come. False: it is none.
  bool TakePreface(std::string_view* bytes);
  void OnGreeted();
  // Sends what there is, as far as the client takes it.
  void Flush();
  void SetKeepalive(TimePoint when);
  void CheckKeepalive();
  void BeginLinger();

  IoThread* const thread_;
  const ServerOptions& options_;
  ByteStream stream_;
  const TimePoint started_;
  Phase phase_;
  std::shared_ptr<Outlet> outlet_;
  std::string preface_;               // a part of it
  std::unique_ptr<Session> session_;  // from the preface on
  std::string output_;                // that the socket has not taken yet
  bool known_ = false;
  size_t newcomer_bytes_ = 0;  // read until it is known
  Newcomers::Place place_;
  bool waits_readable_ = false, waits_writable_ = false, greeted_ = false;
  std::unique_ptr<net::Room::Holder> handshake_room_, output_room_;
  // The first ends handshakes, announced shutdowns and lingering.
  Timers::Handle phase_timer_, age_timer_, keepalive_timer_, write_timer_;
};

}  // namespace conclave::h2
