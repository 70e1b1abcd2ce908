// The rows of `conclave bench gateway`: each measures one thing on a cluster of its own.
//
// A row is one function in one file; gateway_bench.cc lists and runs them, on the main thread.
#pragma once

#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::cli {

struct Figure {
  std::string name;
  double value = 0;
  std::string unit;
  // What is to be reached: at least `least`, at most `most`. Without both it only explains.
  std::optional<double> least = std::nullopt, most = std::nullopt;

  bool reached() const { return !(least && value < *least) && !(most && value > *most); }
};

struct RowContext {
  std::string model;   // checkpoint folder
  double seconds = 0;  // of each measurement in a row
  int32_t streams = 0;
  const std::atomic<bool>* interrupted = nullptr;
  std::function<void(const std::string&)> progress;  // says what begins now
};

struct BenchRow {
  const char* name;
  const char* what;
  absl::StatusOr<std::vector<Figure>> (*measure)(const RowContext&);
};

// Answers from the cache for each second of the gateway's processor time, beside the echo.
absl::StatusOr<std::vector<Figure>> MeasureHits(const RowContext& context);
// What the gateway adds to the echo's time at half of its load.
absl::StatusOr<std::vector<Figure>> MeasureLatency(const RowContext& context);
// The gateway's memory with many streams open.
absl::StatusOr<std::vector<Figure>> MeasureStreams(const RowContext& context);
// Five times as many requests as can be answered, of all classes.
absl::StatusOr<std::vector<Figure>> MeasureOverload(const RowContext& context);
// What two tenants get of which one asks for much more.
absl::StatusOr<std::vector<Figure>> MeasureFairness(const RowContext& context);
// Times between the tokens of a realtime request beside a tenant's batch.
absl::StatusOr<std::vector<Figure>> MeasureRealtime(const RowContext& context);
// Whether a tenant can tell what another one has asked.
absl::StatusOr<std::vector<Figure>> MeasureIsolation(const RowContext& context);

}  // namespace conclave::cli
