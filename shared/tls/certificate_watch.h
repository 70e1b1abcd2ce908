// Keeps a process' certificates those of its files: looks at the files once a second, and takes
// what has changed. Files that are faulty change nothing but a log line and a metric
// (conclave_file_faulty): the certificates of before stay.
//
// Owns one thread ("certificates").
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "shared/metrics/registry.h"
#include "shared/tls/certificate_files.h"

namespace conclave::tls {

class CertificateWatch {
 public:
  // `use`: "api" or "cluster", the label of the metrics. `on_change` is called on the watch's
  // thread with each new set of certificates; it may be null. Errors as ReadCertificates. The
  // registry outlives the watch.
  static absl::StatusOr<std::unique_ptr<CertificateWatch>> Start(
      CertificateFiles files, std::string use, metrics::Registry* registry,
      std::function<void(const Certificates&)> on_change);
  ~CertificateWatch();  // joins

  const Certificates& first() const;  // what was read at the start

 private:
  struct State;
  explicit CertificateWatch(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::tls
