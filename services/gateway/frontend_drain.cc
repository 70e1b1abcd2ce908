// The end of a Frontend's serving: counting what runs, waiting for it, cutting off the rest.
#include <chrono>
#include <future>
#include <memory>
#include <utility>

#include "services/gateway/frontend.h"

namespace conclave::gateway {
namespace {

// The core thread does nothing that takes long: this is for a machine that hardly lets it run.
constexpr auto kCoreAnswerTime = std::chrono::seconds(5);

}  // namespace

int32_t Frontend::AskCore(std::function<int32_t()> question, int32_t otherwise) {
  const auto promise = std::make_shared<std::promise<int32_t>>();
  std::future<int32_t> answer = promise->get_future();
  const auto task = [promise, question = std::move(question)] { promise->set_value(question()); };
  if (!Post(task) || answer.wait_for(kCoreAnswerTime) != std::future_status::ready) {
    return otherwise;
  }
  return answer.get();
}

Frontend::Drained Frontend::Drain(Duration grace) {
  draining_ = true;
  places_->Close();
  // Counted by the core thread: it sends a request's end and gives its place back in one task, so
  // that no client has an answer whose request is still counted here.
  const auto taken = [places = places_] { return places->taken(); };
  Drained drained{.running = AskCore(taken, places_->taken())};
  if (places_->WaitUntilEmpty(grace)) return drained;
  const auto fail_all = [this] {
    const int32_t unfinished = places_->taken();
    scheduler_.FailAll(absl::UnavailableError("the gateway has shut down"));
    return unfinished;
  };
  drained.cut_off = AskCore(fail_all, places_->taken());
  prompts_.Stop();
  return drained;
}

}  // namespace conclave::gateway
