#include "tests/fuzz/corpus_test.h"

TEST(PackedIndexCorpusTest, NeverCrashes) { conclave::testing::ReplayCorpus("packed_index"); }
