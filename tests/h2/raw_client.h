// A client that speaks HTTP/2 frame by frame, well or badly, over a plain socket.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <nghttp2/nghttp2.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "shared/h2/session.h"

namespace conclave::h2 {

struct Frame {
  int type = -1;  // -1: the connection has ended
  int flags = 0;
  int32_t stream = 0;
  std::string payload;
};

class RawClient {
 public:
  using Headers = std::vector<std::pair<std::string, std::string>>;

  // Sends nothing yet.
  explicit RawClient(int port) : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int room = 64 << 10;  // so that the system takes little of what is not read
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const timeval timeout{.tv_sec = 20, .tv_usec = 0};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    nghttp2_hd_inflate_new(&inflater_);
  }
  ~RawClient() {
    nghttp2_hd_inflate_del(inflater_);
    close(fd_);
  }
  RawClient(const RawClient&) = delete;

  // False: the server has closed.
  bool Send(const std::string& bytes) {
    return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  void Greet() { Send(std::string(kPreface) + FrameBytes(NGHTTP2_SETTINGS, 0, 0, "")); }

  static std::string FrameBytes(int type, int flags, int32_t stream, const std::string& payload) {
    std::string bytes;
    for (const int shift : {16, 8, 0}) bytes.push_back(static_cast<char>(payload.size() >> shift));
    bytes.push_back(static_cast<char>(type));
    bytes.push_back(static_cast<char>(flags));
    for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<char>(stream >> shift));
    return bytes + payload;
  }
  // Literals that no table keeps.
  static std::string HeaderBlock(const Headers& headers) {
    std::string block;
    const auto append = [&block](const std::string& text) {
      if (text.size() < 127) {
        block.push_back(static_cast<char>(text.size()));
      } else {
        block.push_back(127);
        size_t rest = text.size() - 127;
        for (; rest >= 128; rest >>= 7) block.push_back(static_cast<char>(rest % 128 + 128));
        block.push_back(static_cast<char>(rest));
      }
      block += text;
    };
    for (const auto& [name, value] : headers) {
      block.push_back(0);
      append(name);
      append(value);
    }
    return block;
  }
  static Headers CallHeaders(const std::string& method, Headers more = {}) {
    Headers headers = {{":method", "POST"},
                       {":scheme", "http"},
                       {":path", "/conclave.v1.InferenceService/" + method},
                       {":authority", "test"},
                       {"content-type", "application/grpc"},
                       {"te", "trailers"}};
    headers.insert(headers.end(), more.begin(), more.end());
    return headers;
  }
  static std::string HeadersFrame(int32_t stream, const Headers& headers, bool end = false) {
    return FrameBytes(NGHTTP2_HEADERS,
                      NGHTTP2_FLAG_END_HEADERS | (end ? NGHTTP2_FLAG_END_STREAM : 0), stream,
                      HeaderBlock(headers));
  }
  // A message with its prefix, in one DATA frame.
  static std::string Message(const std::string& bytes, char compressed = 0) {
    std::string prefix(1, compressed);
    for (const int shift : {24, 16, 8, 0}) {
      prefix.push_back(static_cast<char>(bytes.size() >> shift));
    }
    return prefix + bytes;
  }
  static std::string DataFrame(int32_t stream, const std::string& bytes, bool end = false) {
    return FrameBytes(NGHTTP2_DATA, end ? NGHTTP2_FLAG_END_STREAM : 0, stream, bytes);
  }
  static std::string ResetFrame(int32_t stream) {
    return FrameBytes(NGHTTP2_RST_STREAM, 0, stream, std::string("\0\0\0\x08", 4));
  }

  Frame Read() {
    Frame frame;
    std::string head;
    if (!ReadBytes(9, &head)) return frame;
    const auto byte = [&head](size_t i) { return static_cast<unsigned char>(head[i]); };
    const size_t size = static_cast<size_t>(byte(0)) << 16 | byte(1) << 8 | byte(2);
    if (!ReadBytes(size, &frame.payload)) return frame;
    frame.type = byte(3);
    frame.flags = byte(4);
    frame.stream = static_cast<int32_t>(byte(5) << 24 | byte(6) << 16 | byte(7) << 8 | byte(8));
    if (frame.type == NGHTTP2_HEADERS) Inflate(frame);
    return frame;
  }
  // Skips others, all that come before.
  Frame ReadUntil(int type) {
    for (;;) {
      Frame frame = Read();
      if (frame.type == type || frame.type < 0) return frame;
    }
  }
  // The error code of the last GOAWAY before the end; nothing if there was none.
  std::optional<int> GoAwayCode() {
    std::optional<int> code;
    for (Frame frame = Read(); frame.type >= 0; frame = Read()) {
      if (frame.type == NGHTTP2_GOAWAY) code = static_cast<unsigned char>(frame.payload[7]);
    }
    return code;
  }
  // Reads until the stream's trailers, and gives all its headers.
  std::map<std::string, std::string> ReadTrailers(int32_t stream) {
    for (;;) {
      const Frame frame = Read();
      if (frame.type < 0) return {};
      if (frame.type == NGHTTP2_HEADERS && frame.stream == stream &&
          (frame.flags & NGHTTP2_FLAG_END_STREAM)) {
        return headers_[stream];
      }
    }
  }
  // Whether it ends, whatever comes before.
  bool Ends() {
    while (Read().type >= 0) {
    }
    return ended_;
  }

 private:
  bool ReadBytes(size_t size, std::string* bytes) {
    bytes->resize(size);
    for (size_t at = 0; at < size;) {
      const ssize_t count = recv(fd_, bytes->data() + at, size - at, 0);
      if (count <= 0) {
        ended_ = count == 0 || errno == ECONNRESET || errno == EPIPE;
        return false;
      }
      at += static_cast<size_t>(count);
    }
    return true;
  }
  void Inflate(const Frame& frame) {
    const auto* at = reinterpret_cast<const uint8_t*>(frame.payload.data());
    const auto* const end = at + frame.payload.size();
    for (;;) {
      nghttp2_nv header;
      int flags = 0;
      const ssize_t used =
          nghttp2_hd_inflate_hd2(inflater_, &header, &flags, at, static_cast<size_t>(end - at), 1);
      ASSERT_GE(used, 0);
      at += used;
      if (flags & NGHTTP2_HD_INFLATE_EMIT) {
        headers_[frame.stream][std::string(reinterpret_cast<char*>(header.name), header.namelen)] =
            std::string(reinterpret_cast<char*>(header.value), header.valuelen);
      }
      if (flags & NGHTTP2_HD_INFLATE_FINAL) break;
    }
    nghttp2_hd_inflate_end_headers(inflater_);
  }

  const int fd_;
  nghttp2_hd_inflater* inflater_ = nullptr;
  std::map<int32_t, std::map<std::string, std::string>> headers_;
  bool ended_ = false;
};

}  // namespace conclave::h2
