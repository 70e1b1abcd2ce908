#include "services/gateway/request_record.h"

#include <chrono>

#include "services/gateway/identity/rate_limit.h"
#include "shared/base/log.h"

namespace conclave::gateway {

namespace {

std::string CodeName(const absl::Status& status) {
  return status.ok() ? "OK" : absl::StatusCodeToString(status.code());
}

constexpr char kNoTenant[] = "none";
constexpr char kPromptTokens[] = "prompt";
constexpr char kGeneratedTokens[] = "generated";

// What its tenant and its key pay for. An engine has worked for whoever leaves before the first
// token, too; a failure is not the client's to pay.
struct CountedTokens {
  int64_t prompt = 0;
  int64_t completion = 0;
};

CountedTokens CountTokens(const RequestRecord& record, const absl::Status& status,
                          int64_t completion_tokens, const std::string& engine) {
  const bool left =
      (absl::IsCancelled(status) || absl::IsDeadlineExceeded(status)) && !engine.empty();
  const bool counts = completion_tokens > 0 || status.ok() || left;
  return {.prompt = counts ? record.prompt_tokens : 0, .completion = completion_tokens};
}

void RecordTokens(metrics::Registry& registry, const RequestRecord& record,
                  const CountedTokens& tokens) {
  const auto count = [&](const char* kind, int64_t more) {
    registry
        .GetCounter("conclave_tenant_tokens_total",
                    {{"tenant", TenantLabel(record.tenant)}, {"kind", kind}})
        .Increment(static_cast<double>(more));
  };
  if (record.cache == CacheStatus::kHit || record.cache == CacheStatus::kJoined) {
    count(kCachedTokens, tokens.prompt + tokens.completion);
    return;
  }
  count(kPromptTokens, tokens.prompt);
  count(kGeneratedTokens, tokens.completion);
}

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::string TenantLabel(const std::string& tenant) { return tenant.empty() ? kNoTenant : tenant; }

RequestRecord RequestRecord::Of(const Generation& generation, CacheStatus cache) {
  return {.request_id = generation.request_id,
          .api = generation.api,
          .tenant = generation.tenant.name,
          .key_id = generation.key_id,
          .qos = generation.qos,
          .cache = cache,
          .prompt_tokens = static_cast<int64_t>(generation.prompt_ids.size()),
          .traceparent = generation.traceparent,
          .arrival = generation.arrival,
          .reservation = generation.reservation};
}

void RecordEnd(metrics::Registry& registry, const RequestRecord& record, const absl::Status& status,
               int64_t completion_tokens, const std::string& engine, TimePoint now) {
  CountRequest(registry, record.api, record.tenant, status);
  RecordTokens(registry, record, CountTokens(record, status, completion_tokens, engine));
  registry.GetHistogram("conclave_request_seconds", {{"class", QosClassName(record.qos)}})
      .Observe(std::chrono::duration<double>(now - record.arrival).count());
  if (record.cache != CacheStatus::kNone) {
    registry
        .GetCounter("conclave_cache_requests_total", {{"result", CacheStatusName(record.cache)}})
        .Increment();
  }
  ChargeAndLogEnd(record, status, completion_tokens, engine, now);
}

void ChargeAndLogEnd(const RequestRecord& record, const absl::Status& status,
                     int64_t completion_tokens, const std::string& engine, TimePoint now) {
  if (record.reservation) {
    const CountedTokens tokens = CountTokens(record, status, completion_tokens, engine);
    record.reservation->Settle(tokens.prompt + tokens.completion, now);
  }
  if (!LogsLevel(LogLevel::kInfo)) return;
  LogInfo(
      "request ended",
      {{"request_id", record.request_id},
       {"api", record.api},
       {"code", CodeName(status)},
       {"tenant", record.tenant},
       {"key", record.key_id},
       {"class", QosClassName(record.qos)},
       {"cache", CacheStatusName(record.cache)},
       {"engine", engine},
       {"prompt_tokens", record.prompt_tokens},
       {"completion_tokens", completion_tokens},
       {"ms", std::chrono::duration_cast<std::chrono::milliseconds>(now - record.arrival).count()},
       {"traceparent", record.traceparent}});
}

void DeclareCounters(metrics::Registry& registry) {
  for (const char* const api : {"grpc", "chat", "completions"}) {
    for (const char* const code :
         {"OK", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}) {
      registry.GetCounter("conclave_requests_total", {{"api", api}, {"code", code}});
    }
  }
  for (const CacheStatus cache : {CacheStatus::kHit, CacheStatus::kMiss, CacheStatus::kJoined}) {
    registry.GetCounter("conclave_cache_requests_total", {{"result", CacheStatusName(cache)}});
  }
  for (const char* const reason : {"evicted", "rejected", "expired"}) {
    registry.GetCounter("conclave_cache_dropped_total", {{"reason", reason}});
  }
  for (const QosClass qos : kQosClasses) {
    for (const char* const histogram :
         {"conclave_gateway_queue_wait_seconds", "conclave_time_to_first_token_seconds",
          "conclave_request_seconds"}) {
      registry.GetHistogram(histogram, {{"class", QosClassName(qos)}});
    }
  }
  for (const char* const code : {"OK", "RESOURCE_EXHAUSTED"}) {
    registry.GetCounter("conclave_tenant_requests_total", {{"tenant", kNoTenant}, {"code", code}});
  }
  for (const char* const kind : {kPromptTokens, kGeneratedTokens, kCachedTokens}) {
    registry.GetCounter("conclave_tenant_tokens_total", {{"tenant", kNoTenant}, {"kind", kind}});
  }
}

void CountRequest(metrics::Registry& registry, const std::string& api, const std::string& tenant,
                  const absl::Status& status) {
  registry.GetCounter("conclave_requests_total", {{"api", api}, {"code", CodeName(status)}})
      .Increment();
  registry
      .GetCounter("conclave_tenant_requests_total",
                  {{"tenant", TenantLabel(tenant)}, {"code", CodeName(status)}})
      .Increment();
  if (!status.ok()) {
    registry.GetCounter("conclave_errors_total", {{"code", CodeName(status)}}).Increment();
  }
}

Started StartOf(const Generation& generation, const Beginning& beginning, const TextModel& model,
                const ResumeTokenSigner& signer) {
  return {
      .request_id = generation.request_id,
      .seed = beginning.seed,
      .resume_token = signer.Sign({.tenant = generation.tenant.name,
                                   .definition_hash = generation.definition_hash,
                                   .seed = beginning.seed,
                                   .fingerprint = generation.fingerprint,
                                   .text_version = model.tokenizer()->version(),
                                   .expires_unix_s = UnixSeconds() + kResumeTokenLifetimeSeconds}),
      .model = generation.model,
      .system_fingerprint = beginning.system_fingerprint,
      .prompt_ids = generation.prompt_ids,
      .cache = beginning.cache};
}

}  // namespace conclave::gateway
