#include "tests/fuzz/corpus_test.h"

TEST(SafetensorsHeaderCorpusTest, NeverCrashes) {
  conclave::testing::ReplayCorpus("safetensors_header");
}
