// One engine with its experts in the same process, under a closed loop of requests over its gRPC
// port: tokens a second, time to the first token, and gaps between tokens.
//
//   build/tests/engine_bench --model DIR [--batch 8] [--requests 64] [--prompt 128] [--tokens 64]
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "conclave/v1/engine.grpc.pb.h"
#include "services/engine/engine.h"
#include "shared/base/limits.h"
#include "shared/rpc/channel.h"

namespace conclave {
namespace {

using Time = std::chrono::steady_clock::time_point;

struct Load {
  int batch = 8;
  int requests = 64;
  int prompt_tokens = 128;
  int tokens = 64;
};

double MsSince(Time start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const size_t at =
      std::min(values.size() - 1, static_cast<size_t>(share * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[at];
}

int Run(engine::Engine& engine, const Load& load) {
  const rpc::Channel channel({.address = engine.address()});
  const auto stub = v1::EngineService::NewStub(channel.grpc());
  grpc::ClientContext context;
  const auto stream = stub->Connect(&context);
  v1::EngineEvents events;
  if (!stream->Read(&events)) return 1;
  const v1::EngineHello hello = events.events(0).hello();

  int started = 0;
  int ended = 0;
  struct Running {
    Time begin;
    Time last;
    bool first = true;
  };
  std::map<uint64_t, Running> running;
  std::vector<double> first_ms, gap_ms;
  int64_t tokens = 0;
  const auto start_next = [&] {
    const uint64_t id = started++;
    v1::EngineCommand command;
    v1::StartSequence* start = command.mutable_start();
    start->set_sequence_id(id);
    for (int i = 0; i < load.prompt_tokens; ++i) {
      start->add_prompt_ids(static_cast<int32_t>((id * 31 + i * 7919) % hello.vocab_size()));
    }
    start->set_fingerprint(hello.fingerprint());
    start->set_max_tokens(load.tokens);
    start->set_seed(id);
    start->mutable_sampling()->set_temperature(1);
    start->mutable_sampling()->set_top_p(1);
    start->mutable_sampling()->set_repetition_penalty(1);
    running[id] = {std::chrono::steady_clock::now(), {}, true};
    stream->Write(command);
  };
  const Time begin = std::chrono::steady_clock::now();
  while (started < std::min(load.batch, load.requests)) start_next();
  while (ended < load.requests && stream->Read(&events)) {
    for (const v1::EngineEvent& event : events.events()) {
      if (event.has_tokens()) {
        Running& one = running[event.tokens().sequence_id()];
        tokens += event.tokens().ids_size();
        if (one.first) {
          first_ms.push_back(MsSince(one.begin));
        } else {
          gap_ms.push_back(MsSince(one.last));
        }
        one.first = false;
        one.last = std::chrono::steady_clock::now();
      } else if (event.has_failed()) {
        std::fprintf(stderr, "failed: %s\n", event.failed().message().c_str());
        return 1;
      } else if (event.has_finished()) {
        ++ended;
        if (started < load.requests) start_next();
      }
    }
  }
  const double seconds = MsSince(begin) / 1e3;
  std::printf("%s, batch %d, %d requests, prompt %d, output %d: %.0f tokens/s out, %.0f in\n",
              hello.system_fingerprint().c_str(), load.batch, load.requests, load.prompt_tokens,
              load.tokens, static_cast<double>(tokens) / seconds,
              static_cast<double>(load.requests) * load.prompt_tokens / seconds);
  std::printf("first token ms p50 %.2f p99 %.2f; gap ms p50 %.2f p99 %.2f max %.2f; %d cores\n",
              Percentile(first_ms, 0.5), Percentile(first_ms, 0.99), Percentile(gap_ms, 0.5),
              Percentile(gap_ms, 0.99), Percentile(gap_ms, 1), ReadCpuLimit().cores);
  context.TryCancel();
  stream->Finish();
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app("Load on one engine in this process");
  CommonOptions common;
  EngineOptions options;
  Load load;
  app.add_option("--model", common.model, "checkpoint folder")->required();
  app.add_option("--numerics", common.numerics, "f32, bf16, int8 or int4");
  app.add_option("--threads", options.threads, "compute threads; 0: all cores");
  app.add_option("--batch", load.batch, "requests in flight");
  app.add_option("--requests", load.requests, "requests in all");
  app.add_option("--prompt", load.prompt_tokens, "prompt tokens");
  app.add_option("--tokens", load.tokens, "output tokens");
  CLI11_PARSE(app, argc, argv);
  const std::filesystem::path state_dir =
      std::filesystem::temp_directory_path() / ("engine_bench_" + std::to_string(::getpid()));
  common.state_dir = state_dir;
  common.controller = "127.0.0.1:1";  // none
  options.listen = options.ops_listen = "127.0.0.1:0";
  options.experts = "local";
  int code = 1;
  {
    auto engine = engine::Engine::Start(common, options);
    while (engine.ok() && !(*engine)->ready() && (*engine)->Failure().ok()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    const absl::Status status = engine.ok() ? (*engine)->Failure() : engine.status();
    if (status.ok()) {
      code = Run(**engine, load);
    } else {
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
    }
  }
  std::filesystem::remove_all(state_dir);
  return code;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
