#include "shared/weights/packed_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/byte_size.h"
#include "shared/base/check.h"
#include "shared/base/crc32c.h"
#include "shared/base/status_macros.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxNames = 1000;  // temporary names that are tried

const char* Remedy(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "; make room there or write to another file system";
    case EFBIG:
      return "; raise the limit of file sizes (ulimit -f) or write to another file system";
    case EIO:
      return "; the disk reports an error: see the system's log, write to another disk";
    case ENOENT:
      return "; make the folder first";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; write to a folder that this user may write to";
    default:
      return "";
  }
}

// errno's, with what was done to which file and what to do.
absl::Status SystemError(std::string_view what, const fs::path& path, int error) {
  const std::string message = absl::StrCat(std::string(what), " ", path.string(), ": ",
                                           std::generic_category().message(error), Remedy(error));
  switch (error) {
    case EDQUOT:
    case EFBIG:
      return absl::ResourceExhaustedError(message);
    case EIO:
      return absl::DataLossError(message);
    default:
      return absl::Status(absl::ErrnoToStatusCode(error), message);
  }
}

absl::Status Exists(const fs::path& path) {
  return absl::AlreadyExistsError(
      absl::StrCat(path.string(), " exists; choose another name, or allow that it be replaced"));
}

fs::path FolderOf(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

absl::Status CheckDestination(const fs::path& path, bool replace) {
  struct stat found;
  if (lstat(path.c_str(), &found) != 0) {
    return errno == ENOENT ? absl::OkStatus() : SystemError("cannot look at", path, errno);
  }
  if (!S_ISREG(found.st_mode) && !S_ISLNK(found.st_mode)) {  // never put in a device's place
    return absl::FailedPreconditionError(
        absl::StrCat(path.string(), " is ", S_ISDIR(found.st_mode) ? "a folder" : "no regular file",
                     "; give the name of a file"));
  }
  return replace ? absl::OkStatus() : Exists(path);
}

// A system call's result, once no signal interrupts it.
template <typename Call>
auto Uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

absl::Status CheckRoom(const fs::path& path, uint64_t bytes) {
  struct statvfs room;
  const fs::path folder = FolderOf(path);
  if (Uninterrupted([&] { return statvfs(folder.c_str(), &room); }) != 0) {
    return SystemError("cannot look at", folder, errno);
  }
  if (room.f_blocks == 0) return absl::OkStatus();  // some network file systems do not say
  const uint64_t free_bytes = uint64_t{room.f_bavail} * room.f_frsize;
  if (bytes <= free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(path.string(), " takes ", FormatBytes(static_cast<int64_t>(bytes)),
                   ", but its file system has ", FormatBytes(static_cast<int64_t>(free_bytes)),
                   " free", Remedy(ENOSPC)));
}

absl::Status WriteAt(int descriptor, const fs::path& path, uint64_t offset,
                     std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = Uninterrupted(
        [&] { return pwrite(descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
    // No file that is written to answers 0; a loop that believes it would not end.
    if (written <= 0) return SystemError("cannot write", path, written == 0 ? EIO : errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += static_cast<uint64_t>(written);
  }
  return absl::OkStatus();
}

// Gives the file its size, in zeros. Takes the room for them where that costs nothing: a disk that
// is full says so before hours of work. (posix_fallocate would write them where it does.)
absl::Status SetSize(int descriptor, const fs::path& path, uint64_t bytes) {
  const auto size = static_cast<off_t>(bytes);
  int result = Uninterrupted([&] { return fallocate(descriptor, 0, 0, size); });
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL)) {
    result = Uninterrupted([&] { return ftruncate(descriptor, size); });
  }
  return result == 0 ? absl::OkStatus() : SystemError("cannot make room for", path, errno);
}

// Renames unless there is something at `to`; errno's value, or 0.
int RenameNew(const fs::path& from, const fs::path& to) {
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // A file system without that flag. A second name is never made over another file.
  if (link(from.c_str(), to.c_str()) == 0) {
    unlink(from.c_str());
    return 0;
  }
  if (errno == EEXIST) return EEXIST;
  // Nor has it second names. Between the look and the renaming another process might make one.
  struct stat found;
  if (lstat(to.c_str(), &found) == 0) return EEXIST;
  return rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
}

// Makes a renaming last. What was renamed is whole on the disk: a file system that cannot do this
// to folders loses the name at worst.
void FlushFolder(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedWriter>> PackedWriter::Create(
    std::filesystem::path path, PackedIndex index, const std::vector<std::string>& texts,
    bool replace) {
  if (const std::string problem = index.Problem(); !problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot pack ", path.string(), ": ", problem));
  }
  CONCLAVE_CHECK(texts.size() == index.texts.size());
  RETURN_IF_ERROR(CheckDestination(path, replace));
  RETURN_IF_ERROR(CheckRoom(path, index.file_bytes));

  std::unique_ptr<PackedWriter> writer(new PackedWriter);
  writer->path_ = std::move(path);
  writer->index_ = std::move(index);
  writer->replace_ = replace;
  RETURN_IF_ERROR(writer->MakeTemporary());
  RETURN_IF_ERROR(SetSize(writer->descriptor_, writer->temporary_, writer->index_.file_bytes));
  for (size_t i = 0; i < texts.size(); ++i) {
    const PackedText& text = writer->index_.texts[i];
    const auto bytes = std::as_bytes(std::span(texts[i]));
    CONCLAVE_CHECK(bytes.size() == text.bytes && Crc32c(bytes) == text.checksum);
    RETURN_IF_ERROR(WriteAt(writer->descriptor_, writer->temporary_, text.offset, bytes));
  }
  return writer;
}

absl::Status PackedWriter::MakeTemporary() {
  // In a container process ids begin anew: one that was killed there may have left this name.
  const std::string stem = absl::StrCat(path_.string(), ".partial.", getpid());
  for (int i = 0; i < kMaxNames; ++i) {
    const fs::path name = i == 0 ? stem : absl::StrCat(stem, ".", i);
    descriptor_ = open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (descriptor_ >= 0) {
      temporary_ = name;
      return absl::OkStatus();
    }
    if (errno != EEXIST && errno != EINTR) return SystemError("cannot make", name, errno);
  }
  return absl::AlreadyExistsError(
      absl::StrCat(stem, " and ", kMaxNames - 1, " more exist; remove what killed processes left"));
}

PackedWriter::~PackedWriter() {
  if (descriptor_ >= 0) close(descriptor_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status PackedWriter::Write(size_t entry, uint64_t begin, std::span<const std::byte> bytes) {
  CONCLAVE_CHECK(descriptor_ >= 0 && entry < index_.entries.size());
  const PackedEntry& place = index_.entries[entry];
  CONCLAVE_CHECK(begin <= place.bytes && bytes.size() <= place.bytes - begin);
  return WriteAt(descriptor_, temporary_, place.offset + begin, bytes);
}

void PackedWriter::SetChecksum(size_t entry, uint32_t checksum) {
  CONCLAVE_CHECK(entry < index_.entries.size());
  index_.entries[entry].checksum = checksum;
}

void PackedWriter::SetErrors(size_t entry, double squared_errors, double squared_weights) {
  CONCLAVE_CHECK(entry < index_.entries.size());
  index_.entries[entry].squared_errors = squared_errors;
  index_.entries[entry].squared_weights = squared_weights;
}

absl::Status PackedWriter::Commit() {
  CONCLAVE_CHECK(descriptor_ >= 0);
  // The errors of its tensors were set since Create looked at it.
  if (const std::string problem = index_.Problem(); !problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot pack ", path_.string(), ": ", problem));
  }
  // The last that is written: until then the file does not even begin as a packed one.
  const std::string beginning = index_.Serialise();
  RETURN_IF_ERROR(WriteAt(descriptor_, temporary_, 0, std::as_bytes(std::span(beginning))));
  if (Uninterrupted([this] { return fsync(descriptor_); }) != 0) {
    return SystemError("cannot flush", temporary_, errno);
  }
  close(std::exchange(descriptor_, -1));
  const int error = !replace_                                        ? RenameNew(temporary_, path_)
                    : rename(temporary_.c_str(), path_.c_str()) == 0 ? 0
                                                                     : errno;
  if (error == EEXIST) return Exists(path_);
  if (error != 0) return SystemError("cannot rename to", path_, error);
  temporary_.clear();
  FlushFolder(FolderOf(path_));
  return absl::OkStatus();
}

}  // namespace conclave::weights
