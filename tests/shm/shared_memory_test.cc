#include "shared/shm/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/shm/child.h"
#include "tests/support/temp_dir.h"

namespace conclave::shm {
namespace {

using conclave::testing::Child;
using conclave::testing::TempDir;

constexpr size_t kBytes = 10000;  // no multiple of a page
constexpr int kSealed = F_SEAL_SHRINK | F_SEAL_GROW;

bool IsOpen(int descriptor) { return fcntl(descriptor, F_GETFD) >= 0; }

int MemfdWith(int seals, size_t bytes = kBytes) {
  const int descriptor = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_EQ(ftruncate(descriptor, static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(descriptor, F_ADD_SEALS, seals), 0);
  return descriptor;
}

void ExpectRefused(int descriptor, const std::string& why, size_t bytes = kBytes) {
  const auto mapped = SharedMemory::Map(descriptor, bytes);
  EXPECT_EQ(mapped.status().code(), absl::StatusCode::kInvalidArgument) << why;
  EXPECT_NE(mapped.status().message().find(why), std::string::npos) << mapped.status();
  EXPECT_FALSE(IsOpen(descriptor)) << why;
}

TEST(SharedMemoryTest, IsZeroAtFirstAndNamed) {
  const auto memory = SharedMemory::Create("conclave-test-name", kBytes);
  ASSERT_TRUE(memory.ok()) << memory.status();
  ASSERT_EQ(memory->bytes().size(), kBytes);
  EXPECT_TRUE(std::ranges::all_of(memory->bytes(), [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(fcntl(memory->descriptor(), F_GETFD), FD_CLOEXEC);
  std::ifstream maps("/proc/self/maps");
  const std::string text(std::istreambuf_iterator<char>(maps), {});
  EXPECT_NE(text.find("memfd:conclave-test-name"), std::string::npos) << text;
}

TEST(SharedMemoryTest, ProcessesSeeWhatEachWrites) {
  const auto made = SharedMemory::Create("test", kBytes);
  ASSERT_TRUE(made.ok()) << made.status();
  made->bytes().front() = std::byte{1};
  Child child([&] {
    const auto mapped = SharedMemory::Map(dup(made->descriptor()), kBytes);
    if (!mapped.ok() || mapped->bytes().size() != kBytes) return false;
    mapped->bytes().back() = std::byte{2};
    return mapped->bytes().front() == std::byte{1} &&
           mapped->bytes().data() != made->bytes().data();
  });
  EXPECT_EQ(child.Join(), 0);
  EXPECT_EQ(made->bytes().back(), std::byte{2});
}

TEST(SharedMemoryTest, NobodyCanResizeIt) {
  const auto memory = SharedMemory::Create("test", kBytes);
  ASSERT_TRUE(memory.ok()) << memory.status();
  for (const off_t bytes : {off_t{0}, off_t{kBytes - 1}, off_t{kBytes + 1}}) {
    EXPECT_EQ(ftruncate(memory->descriptor(), bytes), -1);
    EXPECT_EQ(errno, EPERM);
  }
  // Nor seal it against writing, which would keep others from mapping it.
  EXPECT_EQ(fcntl(memory->descriptor(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), -1);
}

TEST(SharedMemoryTest, RefusesAnotherSize) {
  for (const size_t bytes : {kBytes - 1, kBytes + 1, size_t{0}, SIZE_MAX}) {
    ExpectRefused(MemfdWith(kSealed), absl::StrCat("has 10000 bytes where ", bytes, " are wanted"),
                  bytes);
  }
  ExpectRefused(MemfdWith(kSealed, 0), "has 0 bytes where 0 are wanted", 0);
}

TEST(SharedMemoryTest, RefusesWhatCouldBeResized) {
  ExpectRefused(MemfdWith(0), "not sealed against shrinking and growing");
  ExpectRefused(MemfdWith(F_SEAL_GROW), "not sealed against shrinking and growing");
  ExpectRefused(MemfdWith(F_SEAL_SHRINK), "not sealed against shrinking and growing");
}

TEST(SharedMemoryTest, RefusesOtherDescriptors) {
  const TempDir dir;
  const std::string path = dir.path() / "file";
  std::ofstream(path) << std::string(kBytes, 'x');
  // A file of a temporary file system has seals, though none that help.
  const auto regular = SharedMemory::Map(open(path.c_str(), O_RDWR | O_CLOEXEC), kBytes);
  EXPECT_EQ(regular.status().code(), absl::StatusCode::kInvalidArgument) << regular.status();
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  ExpectRefused(ends[0], "of no memfd");
  ExpectRefused(ends[1], "of no memfd");
  ExpectRefused(-1, "of no memfd");
}

TEST(SharedMemoryTest, RefusesWhatCannotBeWritten) {
  ExpectRefused(MemfdWith(kSealed | F_SEAL_FUTURE_WRITE), "may not be written");
  const auto memory = SharedMemory::Create("test", kBytes);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const std::string path = absl::StrCat("/proc/self/fd/", memory->descriptor());
  ExpectRefused(open(path.c_str(), O_RDONLY | O_CLOEXEC), "may not be written");
}

TEST(SharedMemoryTest, SaysWhyItCannotBeMade) {
  const auto endless = SharedMemory::Create("endless", size_t{1} << 62);
  EXPECT_EQ(endless.status().code(), absl::StatusCode::kResourceExhausted) << endless.status();
  EXPECT_NE(endless.status().message().find("\"endless\" of 4611686018427387904 bytes"),
            std::string::npos);
  EXPECT_EQ(SharedMemory::Create("empty", 0).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(SharedMemory::Create(std::string(1000, 'n'), kBytes).status().code(),
            absl::StatusCode::kInternal);

  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {.rlim_cur = 3, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto without = SharedMemory::Create("test", kBytes);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(without.status().code(), absl::StatusCode::kResourceExhausted) << without.status();
}

TEST(SharedMemoryTest, IsReleasedOnce) {
  int first = -1, second = -1;
  {
    auto one = SharedMemory::Create("one", kBytes);
    auto two = SharedMemory::Create("two", 1);
    ASSERT_TRUE(one.ok() && two.ok());
    first = one->descriptor();
    second = two->descriptor();
    one->bytes().front() = std::byte{7};
    SharedMemory moved(*std::move(one));
    EXPECT_EQ(one->bytes().size(), 0u);
    EXPECT_EQ(one->descriptor(), -1);
    *two = std::move(moved);
    EXPECT_EQ(two->bytes().front(), std::byte{7});
    EXPECT_EQ(two->descriptor(), first);
    moved = SharedMemory();
    EXPECT_FALSE(IsOpen(second));
    EXPECT_TRUE(IsOpen(first));
  }
  EXPECT_FALSE(IsOpen(first));
}

}  // namespace
}  // namespace conclave::shm
