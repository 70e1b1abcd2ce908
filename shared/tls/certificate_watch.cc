#include "shared/tls/certificate_watch.h"

#include <chrono>
#include <thread>
#include <utility>

#include "shared/base/log.h"
#include "shared/base/mutex.h"
#include "shared/base/status_macros.h"
#include "shared/base/thread_name.h"

namespace conclave::tls {
namespace {

constexpr auto kPeriod = std::chrono::seconds(1);

}  // namespace

struct CertificateWatch::State {
  void Run() {
    SetThreadName("certificates");
    while (WaitAPeriod()) Look();
  }

  // False: the watch ends.
  bool WaitAPeriod() EXCLUDES(mutex) {
    MutexLock lock(mutex);
    if (!stopping) changed.WaitFor(mutex, kPeriod);
    return !stopping;
  }

  void Look() {
    absl::StatusOr<Certificates> found = ReadCertificates(files);
    if (!found.ok()) {
      // Once for each fault: it is looked for again in a second.
      if (found.status() != fault) {
        LogError("the certificates cannot be used; those of before stay",
                 {{"use", use}, {"error", std::string(found.status().message())}});
      }
      fault = found.status();
      TellFault(true);
      return;
    }
    fault = absl::OkStatus();
    TellFault(false);
    if (*found == current) return;
    current = *std::move(found);
    Tell();
    LogInfo("certificates read",
            {{"use", use},
             {"valid_until", current.expires_unix_s == 0 ? "" : UtcText(current.expires_unix_s)}});
    if (on_change) on_change(current);
  }

  void TellFault(bool faulty) const {
    registry->GetGauge("conclave_file_faulty", {{"use", use}}).Set(faulty ? 1 : 0);
  }

  void Tell() const {
    if (current.expires_unix_s == 0) return;
    registry->GetGauge("conclave_certificate_expiry_timestamp_seconds", {{"use", use}})
        .Set(static_cast<double>(current.expires_unix_s));
  }

  CertificateFiles files;
  std::string use;
  metrics::Registry* registry = nullptr;
  std::function<void(const Certificates&)> on_change;
  Certificates first;
  Certificates current;  // of the thread, once it runs
  absl::Status fault;    // the same
  Mutex mutex;
  CondVar changed;
  bool stopping GUARDED_BY(mutex) = false;
  std::thread thread;
};

absl::StatusOr<std::unique_ptr<CertificateWatch>> CertificateWatch::Start(
    CertificateFiles files, std::string use, metrics::Registry* registry,
    std::function<void(const Certificates&)> on_change) {
  auto state = std::make_unique<State>();
  ASSIGN_OR_RETURN(state->first, ReadCertificates(files));
  state->files = std::move(files);
  state->use = std::move(use);
  state->registry = registry;
  state->on_change = std::move(on_change);
  state->current = state->first;
  state->Tell();
  state->TellFault(false);
  state->thread = std::thread([raw = state.get()] { raw->Run(); });
  return std::unique_ptr<CertificateWatch>(new CertificateWatch(std::move(state)));
}

CertificateWatch::CertificateWatch(std::unique_ptr<State> state) : state_(std::move(state)) {}

CertificateWatch::~CertificateWatch() {
  {
    MutexLock lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.NotifyAll();
  state_->thread.join();
}

const Certificates& CertificateWatch::first() const { return state_->first; }

}  // namespace conclave::tls
