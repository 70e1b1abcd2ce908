// Replays the files of a corpus folder, and damaged copies of them, through a fuzz target.
//
// Included once by each corpus test, which names the folder.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace conclave::testing {

// The files of tests/fuzz/corpus/<name>, in the order of their names.
inline std::vector<std::string> ReadCorpus(const std::string& name) {
  const std::filesystem::path folder =
      std::filesystem::path(CONCLAVE_SOURCE_DIR) / "tests" / "fuzz" / "corpus" / name;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> inputs;
  for (const auto& path : paths) {
    std::ifstream file(path, std::ios::binary);
    inputs.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return inputs;
}

inline void RunOne(const std::string& input) {
  EXPECT_EQ(LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size()),
            0);
}

// Every file as it is, cut short at every length, and with every byte changed in three ways.
inline void ReplayCorpus(const std::string& name) {
  const std::vector<std::string> inputs = ReadCorpus(name);
  ASSERT_GE(inputs.size(), 5u) << "corpus " << name;
  RunOne("");
  for (const std::string& input : inputs) {
    RunOne(input);
    for (size_t length = 0; length < input.size(); ++length) RunOne(input.substr(0, length));
    for (size_t i = 0; i < input.size(); ++i) {
      for (const unsigned change : {0x01u, 0x80u, 0xffu}) {
        std::string damaged = input;
        damaged[i] = static_cast<char>(static_cast<unsigned char>(damaged[i]) ^ change);
        RunOne(damaged);
      }
    }
  }
}

}  // namespace conclave::testing
