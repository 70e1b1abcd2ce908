#include "tests/fuzz/corpus_test.h"

TEST(RowFrameCorpusTest, NeverCrashes) { conclave::testing::ReplayCorpus("row_frame"); }
