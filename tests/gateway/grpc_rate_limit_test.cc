// What a gRPC client hears when its key has no request left.
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include "conclave/v1/inference.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/gateway/http_api_fixture.h"
#include "tests/support/temp_dir.h"

namespace conclave::gateway {
namespace {

class GrpcRateLimitTest : public HttpApiTest {
 protected:
  ~GrpcRateLimitTest() override { rig_.reset(); }  // before the keys

  // A gateway with one key, of so many requests a minute.
  void StartWithLimit(int64_t requests_per_minute) {
    key_.record.tenant = "acme";
    key_.record.requests_per_minute = requests_per_minute;
    const std::string path = dir_.path() / "keys.json";
    ASSERT_TRUE(identity::WriteKeyFile(path, {.tenants = {}, .keys = {key_.record}}).ok());
    auto store = KeyStore::Open(path, &clock_, &registry_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    GatewayRig::Options options;
    options.keys = store_.get();
    Start(std::move(options));
    stub_ = v1::InferenceService::NewStub(
        grpc::CreateChannel(rig_->grpc_address(), grpc::InsecureChannelCredentials()));
  }
  grpc::Status Complete() {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + key_.text);
    v1::GenerateRequest request;
    request.set_text("Once");
    v1::CompleteResponse answer;
    return stub_->Complete(&context, request, &answer);
  }
  grpc::Status Generate() {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + key_.text);
    v1::GenerateRequest request;
    request.set_text("Once");
    const auto reader = stub_->Generate(&context, request);
    v1::GenerateEvent event;
    while (reader->Read(&event)) {
    }
    return reader->Finish();
  }
  // The delay that the status names; fails where it has none.
  static int64_t RetryMs(const grpc::Status& status) {
    google::rpc::Status rich;
    EXPECT_TRUE(rich.ParseFromString(status.error_details()));
    EXPECT_EQ(rich.code(), status.error_code());
    for (const auto& detail : rich.details()) {
      google::rpc::RetryInfo retry;
      if (!detail.UnpackTo(&retry)) continue;
      return retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1'000'000;
    }
    ADD_FAILURE() << "no RetryInfo in " << rich.ShortDebugString();
    return 0;
  }

  SteadyClock clock_;
  metrics::Registry registry_;
  conclave::testing::TempDir dir_;
  identity::DrawnKey key_ = identity::DrawKey();
  std::unique_ptr<KeyStore> store_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(GrpcRateLimitTest, ARefusalSaysWhenToComeAgain) {
  StartWithLimit(1);
  EXPECT_TRUE(Complete().ok());
  for (const grpc::Status& refused : {Complete(), Generate()}) {
    EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED)
        << refused.error_message();
    // One request a minute comes back.
    const int64_t wait_ms = RetryMs(refused);
    EXPECT_GT(wait_ms, 20'000);
    EXPECT_LE(wait_ms, 60'000);
  }
}

TEST_F(GrpcRateLimitTest, TheDelayFollowsTheLimit) {
  StartWithLimit(4);
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(Complete().ok());
  const int64_t wait_ms = RetryMs(Complete());
  EXPECT_GT(wait_ms, 0);
  EXPECT_LE(wait_ms, 15'000);
}

}  // namespace
}  // namespace conclave::gateway
