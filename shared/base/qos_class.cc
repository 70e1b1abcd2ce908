#include "shared/base/qos_class.h"

#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace conclave {

namespace {

constexpr PerClass<const char*> kNames = {"realtime", "interactive", "batch", "sheddable"};

}  // namespace

const char* QosClassName(QosClass qos) { return kNames[IndexOf(qos)]; }

std::optional<QosClass> QosClassOf(std::string_view name) {
  for (const QosClass qos : kQosClasses) {
    if (name == QosClassName(qos)) return qos;
  }
  return std::nullopt;
}

absl::StatusOr<PerClass<double>> ParseClassWeights(const std::string& text,
                                                   PerClass<double> defaults) {
  PerClass<double> weights = defaults;
  PerClass<bool> given = {};
  for (const std::string& part :
       std::vector<std::string>(absl::StrSplit(text, ',', absl::SkipWhitespace()))) {
    const std::pair<std::string, std::string> halves =
        absl::StrSplit(part, absl::MaxSplits('=', 1));
    const std::string name(absl::StripAsciiWhitespace(halves.first));
    const std::optional<QosClass> qos = QosClassOf(name);
    if (!qos) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", name, "\" is no class; classes are realtime, interactive, batch and sheddable"));
    }
    if (std::exchange(given[IndexOf(*qos)], true)) {
      return absl::InvalidArgumentError(absl::StrCat(name, " has more than one weight"));
    }
    double weight = 0;
    if (!absl::SimpleAtod(absl::StripAsciiWhitespace(halves.second), &weight) ||
        !IsWeight(weight)) {
      return absl::InvalidArgumentError(absl::StrCat("the weight of ", name, " is \"",
                                                     halves.second, "\"; expected a number from ",
                                                     kLeastWeight, " to ", kMostWeight));
    }
    weights[IndexOf(*qos)] = weight;
  }
  return weights;
}

}  // namespace conclave
