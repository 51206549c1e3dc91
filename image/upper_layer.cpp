#include "image/upper_layer.h"

#include <fcntl.h>
#include <kj/io.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <span>

#include "image/extent_walk.h"

namespace faultline::image {

namespace {

constexpr std::uint64_t PAGE = 4096;
constexpr const char* FLATTEN =
    "; flatten it over its base where it was written (faultline flatten), and serve the result";
constexpr const char* NO_HOLE =
    "it has no hole, so that it would hide all that is below it: a full snapshot is served alone, and of a "
    "differential one this is a copy without its holes; take the original, or flatten that over its base "
    "where it was written (faultline flatten)";

// Not in linux/magic.h.
constexpr std::uint64_t XFS_MAGIC = 0x58465342;

bool keepsHolesAndZeros(std::uint64_t type) {
  return type == EXT4_SUPER_MAGIC || type == XFS_MAGIC || type == BTRFS_SUPER_MAGIC || type == TMPFS_MAGIC;
}

std::string wrongByName(std::uint64_t type) {
  if (type == SQUASHFS_MAGIC)
    return "squashfs shows zeros that are data as holes: the bytes below would show through";
  if (type == EROFS_SUPER_MAGIC_V1) return "erofs shows holes as data: it would hide what is below it";
  return "";
}

bool wholePages(const Extent& extent) {
  return extent.offset % PAGE == 0 && extent.size % PAGE == 0;
}

// The folder of a file as it was named; that of the file itself where the name is a symbolic link.
std::string folderOf(const std::string& path) {
  std::error_code error;
  std::filesystem::path file(path);
  if (std::filesystem::is_symlink(file, error)) file = std::filesystem::canonical(file, error);
  const std::string folder = file.parent_path();
  return folder.empty() ? "." : folder;
}

// Whether `probe`, made in the folder of `file`, lies on the same file system.
bool sameSystem(const struct stat& file, int probe, std::uint64_t type) {
  struct stat made {};
  if (fstat(probe, &made) != 0 || made.st_dev != file.st_dev) return false;
  // An overlayfs tells its file systems apart by st_dev or by the upper bits of st_ino; new files are on its upper one
  // (Documentation/filesystems/overlayfs.rst, "Inode properties").
  return type != OVERLAYFS_SUPER_MAGIC || file.st_ino >> 54 == made.st_ino >> 54;
}

enum class Shows { right, zerosAsHoles, holesAsData, partsOfPages };

// Makes a file with zeros in a page, and with some in the middle of another one, and looks what the file system shows
// of it. Empty: no such file can be made.
std::optional<Shows> probed(const struct stat& file, const std::string& folder, std::uint64_t type) {
  constexpr std::uint64_t BYTES = 4u << 20, SECOND = 16 * PAGE;  // two huge pages, should there be any
  const kj::AutoCloseFd probe(open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (probe.get() < 0 || !sameSystem(file, probe.get(), type)) return std::nullopt;
  const std::array<char, PAGE> zeros{};
  if (ftruncate(probe.get(), BYTES) != 0 || pwrite(probe.get(), zeros.data(), PAGE, 0) != PAGE ||
      pwrite(probe.get(), zeros.data(), 512, SECOND + 1024) != 512)
    return std::nullopt;
  // Some make holes of zeros when they write them to the disk. The known ones do not: no wait for the disk.
  if (!keepsHolesAndZeros(type) && fsync(probe.get()) != 0) return std::nullopt;
  std::uint64_t data = 0;
  bool first = false, second = false;
  ExtentWalk walk(probe.get(), 0, BYTES);
  while (const auto extent = walk.next()) {
    if (!wholePages(*extent)) return Shows::partsOfPages;
    if (extent->hole) continue;
    data += extent->size;
    const auto has = [&](std::uint64_t offset) {
      return extent->offset <= offset && offset - extent->offset < extent->size;
    };
    first = first || has(0);
    second = second || has(SECOND);
  }
  if (!first || !second) return Shows::zerosAsHoles;
  return data == 2 * PAGE ? Shows::right : Shows::holesAsData;
}

std::string wrongByProbe(Shows shows) {
  switch (shows) {
    case Shows::right:
      return "";
    case Shows::zerosAsHoles:
      return "its file system shows zeros that are data as holes: the bytes below would show through";
    case Shows::holesAsData:
      return "its file system shows more as data than was written: it would hide what is below it";
    case Shows::partsOfPages:
      return "its file system has blocks of less than 4096 bytes: a hole could end inside a page";
  }
  return "its file system is unknown";
}

std::string wrongByType(const struct stat& file, const struct statfs& system) {
  const auto type = static_cast<std::uint64_t>(system.f_type);
  if (!keepsHolesAndZeros(type))
    return "whether the holes of its file system are to be believed cannot be found out there (it makes no "
           "unnamed file in the same folder on the same file system)";
  if (system.f_bsize < static_cast<long>(PAGE)) return wrongByProbe(Shows::partsOfPages);
  // tmpfs tells its huge pages so.
  const auto block =
      type == TMPFS_MAGIC ? static_cast<long>(file.st_blksize) : static_cast<long>(system.f_bsize);
  return block == static_cast<long>(PAGE) ? "" : wrongByProbe(Shows::holesAsData);
}

// FIEMAP's answer for the beginning of a range.
struct Space {
  bool unwritten = false;  // allocated and never written, some of it
  std::uint64_t end = 0;   // how far it tells
};

Space spaceOf(int file, std::uint64_t begin, std::uint64_t end, std::uint32_t flags) {
  constexpr unsigned EXTENTS = 64;
  alignas(struct fiemap) std::array<char, sizeof(struct fiemap) + EXTENTS * sizeof(fiemap_extent)> space{};
  auto* map = reinterpret_cast<struct fiemap*>(space.data());
  map->fm_start = begin;
  map->fm_length = end - begin;
  map->fm_flags = flags;
  map->fm_extent_count = EXTENTS;
  // Without FIEMAP is tmpfs, which shows such space as a hole.
  if (ioctl(file, FS_IOC_FIEMAP, map) != 0 || map->fm_mapped_extents == 0) return {false, end};
  const std::span extents(reinterpret_cast<const fiemap_extent*>(map + 1),
                          std::min(map->fm_mapped_extents, EXTENTS));
  const bool unwritten = std::any_of(extents.begin(), extents.end(), [](const fiemap_extent& extent) {
    return (extent.fe_flags & FIEMAP_EXTENT_UNWRITTEN) != 0;
  });
  const std::uint64_t told = extents.back().fe_logical + extents.back().fe_length;
  return {unwritten, extents.size() < EXTENTS || told <= begin ? end : std::min(told, end)};
}

bool hasUnwritten(int file, std::uint64_t bytes, Look look) {
  constexpr std::uint64_t PLACES = 16;
  const std::uint64_t step =
      look == Look::whole ? bytes : std::max((bytes / PLACES + PAGE - 1) / PAGE * PAGE, PAGE);
  for (std::uint64_t place = 0; place < bytes; place += step) {
    const std::uint64_t end = std::min(place + step, bytes);
    for (std::uint64_t at = place; at < end;) {
      const Space space = spaceOf(file, at, end, 0);
      // Bytes on their way to the disk look the same: wait for them, and look again.
      if (space.unwritten && spaceOf(file, at, end, FIEMAP_FLAG_SYNC).unwritten) return true;
      at = look == Look::whole ? space.end : end;
    }
  }
  return false;
}

std::string reason(int file, const std::string& path, Look look) {
  struct stat status {};
  struct statfs system {};
  if (fstat(file, &status) != 0 || fstatfs(file, &system) != 0)
    return std::string("it cannot be looked at: ") + std::strerror(errno);
  if (!S_ISREG(status.st_mode))
    return std::string("it is no regular file, and others have no holes: it would hide what is below it") +
           FLATTEN;
  const auto type = static_cast<std::uint64_t>(system.f_type);
  const auto bytes = static_cast<std::uint64_t>(status.st_size);
  if (const std::string wrong = wrongByName(type); !wrong.empty()) return wrong + FLATTEN;
  const auto shows = probed(status, folderOf(path), type);
  if (shows.has_value() && *shows != Shows::right) return wrongByProbe(*shows) + FLATTEN;
  const auto first = ExtentWalk(file, 0, bytes).next();
  if (first.has_value() && !first->hole && first->size == bytes) return NO_HOLE;
  if (const std::string wrong = shows.has_value() ? "" : wrongByType(status, system); !wrong.empty())
    return wrong + FLATTEN;
  if (hasUnwritten(file, bytes, look))
    return "parts of it were allocated and never written (fallocate; on xfs also a copy that grew, as tar "
           "and rsync make it), and its file system shows such a part as a hole or as data by turns; take "
           "the "
           "original, or flatten that over its base where it was written (faultline flatten)";
  return "";
}

}  // namespace

std::optional<std::string> whyNotUpper(int file, const std::string& path, Look look) {
  try {
    if (const std::string why = reason(file, path, look); !why.empty()) return why;
    return std::nullopt;
  } catch (const std::exception& error) {
    return std::string("its holes cannot be found: ") + error.what();
  }
}

}  // namespace faultline::image
