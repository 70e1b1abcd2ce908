// How urgent a request is: the four classes, from the edge to the expert frame.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace conclave {

// Ordered: a lower value goes first.
enum class QosClass : uint8_t { kRealtime, kInteractive, kBatch, kSheddable };

inline constexpr size_t kNumQosClasses = 4;
inline constexpr std::array<QosClass, kNumQosClasses> kQosClasses = {
    QosClass::kRealtime, QosClass::kInteractive, QosClass::kBatch, QosClass::kSheddable};

constexpr size_t IndexOf(QosClass qos) { return static_cast<size_t>(qos); }

// As messages and row frames number them: 1 (most urgent) to 4.
constexpr uint8_t WireNumber(QosClass qos) { return static_cast<uint8_t>(IndexOf(qos) + 1); }

// "realtime", "interactive", "batch", "sheddable".
const char* QosClassName(QosClass qos);
std::optional<QosClass> QosClassOf(std::string_view name);

// One value a class, by IndexOf.
template <typename T>
using PerClass = std::array<T, kNumQosClasses>;

// Weights, of classes and of tenants among each other: beyond these the turn of one would be lost
// in the rounding of another's.
inline constexpr double kLeastWeight = 1e-3, kMostWeight = 1e6;
// False for what is no number, too.
constexpr bool IsWeight(double value) { return value >= kLeastWeight && value <= kMostWeight; }

// "realtime=64,interactive=16": a number above 0 for each class that is named; the others keep
// theirs. INVALID_ARGUMENT says what is wrong with which part.
absl::StatusOr<PerClass<double>> ParseClassWeights(const std::string& text,
                                                   PerClass<double> defaults);

}  // namespace conclave
