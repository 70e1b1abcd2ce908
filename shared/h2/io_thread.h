// What the connections of one I/O thread share. Everything but `io` is used on that thread alone.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/container/flat_hash_map.h"
#include "shared/h2/newcomers.h"
#include "shared/h2/server.h"
#include "shared/h2/timers.h"
#include "shared/net/asio.h"
#include "shared/net/room.h"

namespace conclave::h2 {

class Connection;

// By path: "/conclave.v1.InferenceService/Complete".
using Methods = absl::flat_hash_map<std::string, Service::MakeCall>;

struct IoThread {
  // The options and methods outlive this. Bounds are shared out among `num_threads`.
  IoThread(const ServerOptions* server_options, const Methods* server_methods, size_t num_threads)
      : options(server_options),
        methods(server_methods),
        io(std::make_shared<boost::asio::io_context>(1)),
        timers(io.get()),
        newcomers(io.get(), &timers, server_options->newcomer_share),
        arriving(std::max(server_options->max_arriving_bytes / num_threads,
                          server_options->max_receive_bytes)),
        untaken(server_options->max_untaken_bytes / num_threads),
        handshakes(std::max<size_t>(1, server_options->max_handshakes / num_threads)),
        max_connections(std::max<size_t>(
            1, static_cast<size_t>(server_options->max_connections) / num_threads)) {}

  const ServerOptions* const options;
  const Methods* const methods;
  const std::shared_ptr<boost::asio::io_context> io;
  Timers timers;
  Newcomers newcomers;
  net::Room arriving, untaken, handshakes;
  const size_t max_connections;
  std::array<char, 64 << 10> input;  // of one read
  std::string output;                // of one write
  std::unordered_map<Connection*, std::shared_ptr<Connection>> connections;
  std::function<void()> closed;  // a connection is not in the map any more
};

}  // namespace conclave::h2
