// What a value of a sampling field may be, whether a request gives it or generation_config.json.
#pragma once

namespace conclave::text {

// A closed interval, or one without its lower end.
struct Range {
  double low, high;
  bool low_open = false;

  // False for NaN.
  constexpr bool Holds(double value) const {
    return value <= high && (low_open ? value > low : value >= low);
  }
};

inline constexpr Range kTemperatureRange = {0, 2};
inline constexpr Range kTopPRange = {0, 1, /*low_open=*/true};
inline constexpr Range kMinPRange = {0, 1};
// Below it a penalty is a division by nearly nothing.
inline constexpr Range kRepetitionPenaltyRange = {0.001, 10};

}  // namespace conclave::text
