#include "services/gateway/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

namespace conclave::gateway {
namespace {

// What comes out when `text` is pushed in pieces of the given sizes (the last one repeats).
struct Outcome {
  std::string text;
  int matched = -1;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};
Outcome RunPieces(const std::vector<std::string>& stops, const std::string& text,
                  std::mt19937* random, size_t most) {
  StopMatcher matcher(stops);
  Outcome outcome;
  for (size_t at = 0; at < text.size();) {
    const size_t size = random ? 1 + (*random)() % most : most;
    StopMatcher::Result result = matcher.Push(std::string_view(text).substr(at, size));
    outcome.text += result.text;
    if (result.matched >= 0) {
      outcome.matched = result.matched;
      return outcome;
    }
    at += size;
  }
  outcome.text += matcher.Flush();
  return outcome;
}

// The definition: the stop string that ends first, of those that end there the longest.
Outcome Reference(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    Outcome outcome;
    size_t longest = 0;
    for (size_t s = 0; s < stops.size(); ++s) {
      const std::string& stop = stops[s];
      if (stop.size() <= end && stop.size() > longest &&
          text.compare(end - stop.size(), stop.size(), stop) == 0) {
        longest = stop.size();
        outcome = {.text = text.substr(0, end - stop.size()), .matched = static_cast<int>(s)};
      }
    }
    if (longest > 0) return outcome;
  }
  return {.text = text, .matched = -1};
}

TEST(StopMatcherTest, PassesTextThroughWithoutStops) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Push("abc").text, "abc");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("the E").text, "the ");
  EXPECT_EQ(matcher.Push("N").text, "");
  EXPECT_EQ(matcher.Push("E").text, "EN");  // only the last E may still begin a stop
  EXPECT_EQ(matcher.Flush(), "E");
}

TEST(StopMatcherTest, MatchesAcrossPieces) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("xE").text, "x");
  EXPECT_EQ(matcher.Push("N").text, "");
  const StopMatcher::Result result = matcher.Push("D and more");
  EXPECT_EQ(result.matched, 0);
  EXPECT_EQ(result.text, "");
}

TEST(StopMatcherTest, TheStopThatIsCompleteFirstWins) {
  EXPECT_EQ(RunPieces({"abcd", "bc"}, "xabcd", nullptr, 1), (Outcome{"xa", 1}));
  EXPECT_EQ(RunPieces({"c", "bc", "abc"}, "xabc", nullptr, 4), (Outcome{"x", 2}));
}

TEST(StopMatcherTest, NeverCutsACharacter) {
  // The first byte of "é" also begins "è".
  StopMatcher matcher({"è!"});
  EXPECT_EQ(matcher.Push("caf").text, "caf");
  EXPECT_EQ(matcher.Push("é").text, "é");
}

TEST(StopMatcherTest, AgreesWithTheDefinitionHoweverTextIsCut) {
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(1 + random() % 4);
    for (std::string& stop : stops) {
      stop.resize(1 + random() % 4);
      for (char& c : stop) c = static_cast<char>('a' + random() % 2);
    }
    std::string text(random() % 20, 'a');
    for (char& c : text) c = static_cast<char>('a' + random() % 3);
    const Outcome expected = Reference(stops, text);
    const Outcome found = RunPieces(stops, text, &random, 5);
    EXPECT_EQ(found.text, expected.text) << testing::PrintToString(stops) << " in " << text;
    EXPECT_EQ(found.matched >= 0, expected.matched >= 0);
  }
}

}  // namespace
}  // namespace conclave::gateway
