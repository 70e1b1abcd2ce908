#include "shared/rpc/status.h"

#include <string>

#include "google/rpc/status.pb.h"
#include "gtest/gtest.h"

namespace conclave::rpc {
namespace {

ErrorDetails ContextDetails() {
  return {.reason = "CONTEXT_LENGTH_EXCEEDED",
          .metadata = {{"limit", "2048"}, {"found", "3000"}},
          .retry_after_ms = 1500,
          .fields = {{"prompt", "is 3000 tokens long"}}};
}

TEST(StatusTest, CarriesCodeMessageAndDetailsOverTheWire) {
  const absl::Status sent =
      WithDetails(absl::InvalidArgumentError("the prompt is too long"), ContextDetails());
  const absl::Status received = FromGrpc(ToGrpc(sent));
  EXPECT_EQ(received, sent);
  const ErrorDetails details = DetailsOf(received);
  EXPECT_EQ(details.reason, "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_EQ(details.metadata.at("limit"), "2048");
  EXPECT_EQ(details.retry_after_ms, 1500);
  ASSERT_EQ(details.fields.size(), 1u);
  EXPECT_EQ(details.fields[0].field, "prompt");
}

TEST(StatusTest, WritesTheRichStatusOtherClientsRead) {
  const grpc::Status wire =
      ToGrpc(WithDetails(absl::UnavailableError("later"), {.retry_after_ms = 250}));
  google::rpc::Status rich;
  ASSERT_TRUE(rich.ParseFromString(wire.error_details()));
  EXPECT_EQ(rich.code(), 14);
  EXPECT_EQ(rich.message(), "later");
  ASSERT_EQ(rich.details_size(), 1);
  EXPECT_EQ(rich.details(0).type_url(), "type.googleapis.com/google.rpc.RetryInfo");
}

TEST(StatusTest, EveryCodeSurvivesTheWire) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status sent(static_cast<absl::StatusCode>(code), "x");
    EXPECT_EQ(FromGrpc(ToGrpc(sent)).code(), sent.code());
    EXPECT_EQ(ToGrpc(sent).error_code(), code);
  }
  EXPECT_TRUE(FromGrpc(ToGrpc(absl::OkStatus())).ok());
}

TEST(StatusTest, AnUnknownWireCodeIsUnknown) {
  EXPECT_EQ(FromGrpc(grpc::Status(static_cast<grpc::StatusCode>(99), "x")).code(),
            absl::StatusCode::kUnknown);
}

TEST(StatusTest, IgnoresMalformedDetails) {
  const absl::Status status =
      FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, "x", "\xff\xff garbage"));
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(DetailsOf(status).reason, "");
  EXPECT_EQ(DetailsOf(status).retry_after_ms, -1);
}

TEST(StatusTest, LeavesOutDetailsTooLargeForATrailer) {
  ErrorDetails details;
  details.fields.push_back({"logit_bias", std::string(100'000, 'x')});
  const grpc::Status wire = ToGrpc(WithDetails(absl::InvalidArgumentError("bad bias"), details));
  EXPECT_EQ(wire.error_details(), "");
  EXPECT_EQ(wire.error_message(), "bad bias");
}

TEST(StatusTest, OkTakesNoDetails) {
  EXPECT_TRUE(WithDetails(absl::OkStatus(), ContextDetails()).ok());
}

TEST(StatusTest, RetryableIsDecidedByCode) {
  for (int code = 0; code <= 16; ++code) {
    const auto value = static_cast<absl::StatusCode>(code);
    const bool wanted = value == absl::StatusCode::kUnavailable ||
                        value == absl::StatusCode::kResourceExhausted ||
                        value == absl::StatusCode::kAborted;
    EXPECT_EQ(IsRetryable(value), wanted) << code;
  }
}

TEST(StatusTest, MapsToOpenAisErrors) {
  const HttpError context =
      ToHttp(WithDetails(absl::InvalidArgumentError("too long"), ContextDetails()));
  EXPECT_EQ(context.http_status, 400);
  EXPECT_EQ(context.type, "invalid_request_error");
  EXPECT_EQ(context.code, "context_length_exceeded");
  EXPECT_EQ(context.param, "prompt");
  EXPECT_EQ(context.message, "too long");
  EXPECT_EQ(context.retry_after_s, 2);  // rounded up

  const HttpError field = ToHttp(InvalidField("temperature", "is 3, wanted 0 to 2"));
  EXPECT_EQ(field.param, "temperature");
  EXPECT_EQ(field.message, "temperature: is 3, wanted 0 to 2");
  EXPECT_EQ(field.retry_after_s, 0);

  EXPECT_EQ(ToHttp(absl::ResourceExhaustedError("x")).http_status, 429);
  EXPECT_EQ(ToHttp(absl::ResourceExhaustedError("x")).type, "rate_limit_error");
  EXPECT_EQ(ToHttp(absl::UnavailableError("x")).http_status, 503);
  EXPECT_EQ(ToHttp(absl::NotFoundError("x")).http_status, 404);
  EXPECT_EQ(ToHttp(absl::UnauthenticatedError("x")).http_status, 401);
  EXPECT_EQ(ToHttp(absl::InternalError("x")).http_status, 500);
}

TEST(StatusTest, EveryErrorCodeHasAnHttpErrorStatusAndType) {
  for (int code = 1; code <= 16; ++code) {
    const HttpError error = ToHttp(absl::Status(static_cast<absl::StatusCode>(code), "x"));
    EXPECT_GE(error.http_status, 400) << code;
    EXPECT_FALSE(error.type.empty()) << code;
  }
}

}  // namespace
}  // namespace conclave::rpc
