// How connections come and go.
#include <chrono>
#include <thread>

#include "tests/http/server_fixture.h"

namespace conclave::http {
namespace {

using std::chrono::seconds;

class ServerConnectionsTest : public ServerTest {
 protected:
  bool WaitForConnections(int32_t count) {
    const auto deadline = std::chrono::steady_clock::now() + seconds(10);
    while (server_->num_connections() != count) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }
};

TEST_F(ServerConnectionsTest, AClientThatClosesFreesItsPlaceAtOnce) {
  Start({.max_connections = 1});
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(WaitForConnections(0));
    RawClient client(server_->address());
    client.Send(Post("/echo", "here"));
    ASSERT_EQ(client.ReadResponse().status, 200) << "client " << i;
  }
  ASSERT_TRUE(WaitForConnections(0));
  // A place that is kept for a second after its client has gone would make this twenty seconds.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(5));
}

}  // namespace
}  // namespace conclave::http
