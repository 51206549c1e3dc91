#include "coordinator/ended_restores.h"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <fcntl.h>
#include <kj/debug.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "shmtracker/layout.h"

namespace faultline::coordinator {

namespace {

constexpr std::uint64_t MAGIC = 0x3164'6564'6e65'6c66;  // "flended1"

struct SlotHeader {
  std::uint64_t magic;
  std::uint64_t sequence;
  std::uint64_t id;
  std::uint32_t fds;
  std::uint32_t words;  // size of the message behind the header
  std::uint32_t messageCrc;
  std::uint32_t headerCrc;  // over all before it
};
static_assert(sizeof(SlotHeader) == 40);
constexpr std::size_t MOST_WORDS = (EndedRestores::SLOT_BYTES - sizeof(SlotHeader)) / sizeof(capnp::word);

std::uint32_t crcOf(const SlotHeader& header) {
  return shm::crc32c(&header, offsetof(SlotHeader, headerCrc));
}

off_t slotOf(std::uint64_t sequence) {
  return static_cast<off_t>(sequence % EndedRestores::KEPT * EndedRestores::SLOT_BYTES);
}

bool fits(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 &&
         status.st_size == static_cast<off_t>(EndedRestores::KEPT * EndedRestores::SLOT_BYTES);
}

kj::AutoCloseFd make() {
  int fd;
  KJ_SYSCALL(fd = memfd_create("faultline-ended", MFD_CLOEXEC));
  kj::AutoCloseFd result(fd);
  KJ_SYSCALL(ftruncate(fd, static_cast<off_t>(EndedRestores::KEPT * EndedRestores::SLOT_BYTES)));
  return result;
}

bool readAll(int fd, void* to, std::size_t bytes, off_t at) {
  return pread(fd, to, bytes, at) == static_cast<ssize_t>(bytes);
}

// The message of a slot, where its bytes are those of an ended restore.
std::optional<kj::Array<capnp::word>> messageAt(int fd, const SlotHeader& header, off_t at) {
  if (header.words == 0 || header.words > MOST_WORDS) return std::nullopt;
  auto words = kj::heapArray<capnp::word>(header.words);
  auto bytes = words.asBytes();
  if (!readAll(fd, bytes.begin(), bytes.size(), at + static_cast<off_t>(sizeof header))) return std::nullopt;
  if (shm::crc32c(bytes.begin(), bytes.size()) != header.messageCrc) return std::nullopt;
  const auto failure = kj::runCatchingExceptions([&] {
    capnp::FlatArrayMessageReader reader(words);
    KJ_REQUIRE(reader.getRoot<rpc::EndedRestore>().getInfo().getId() == header.id);
  });
  if (failure != nullptr) return std::nullopt;
  return words;
}

}  // namespace

EndedRestores::EndedRestores(kj::AutoCloseFd inherited) : fd_(kj::mv(inherited)) {
  if (fd_.get() >= 0 && fits(fd_.get())) {
    read();
    return;
  }
  if (fd_.get() >= 0) spdlog::warn("what is kept of ended restores is of another build: it begins anew");
  fd_ = make();
  fresh_ = true;
}

void EndedRestores::read() {
  std::vector<Entry> found;
  for (std::uint64_t slot = 0; slot < KEPT; slot++) {
    SlotHeader header{};
    const off_t at = slotOf(slot);
    if (!readAll(fd_.get(), &header, sizeof header, at)) continue;
    if (header.magic != MAGIC || header.headerCrc != crcOf(header) || slotOf(header.sequence) != at) continue;
    lastSequence_ = std::max(lastSequence_, header.sequence);
    if (auto message = messageAt(fd_.get(), header, at))
      found.push_back({header.sequence, header.id, static_cast<Fds>(header.fds), kj::mv(*message)});
  }
  std::sort(found.begin(), found.end(),
            [](const Entry& a, const Entry& b) { return a.sequence < b.sequence; });
  for (Entry& entry : found) keep(std::move(entry));
}

void EndedRestores::note(rpc::EndedRestore::Reader ended, Fds fds) {
  const auto failure = kj::runCatchingExceptions([&] {
    capnp::MallocMessageBuilder message;
    message.setRoot(ended);
    Entry entry{lastSequence_ + 1, ended.getInfo().getId(), fds, capnp::messageToFlatArray(message)};
    KJ_REQUIRE(entry.message.size() <= MOST_WORDS, "too large", entry.message.size());
    KJ_REQUIRE(write(entry), "no memory");
    lastSequence_ = entry.sequence;
    keep(std::move(entry));
  });
  KJ_IF_MAYBE (e, failure)
    spdlog::error("the last figures of restore {} are not kept: {}", ended.getInfo().getName().cStr(),
                  e->getDescription().cStr());
}

// The header comes last: until then the slot has the header of what was there before, whose message is not the one that
// is found behind it.
bool EndedRestores::write(const Entry& entry) {
  const auto bytes = entry.message.asBytes();
  SlotHeader header{MAGIC,
                    entry.sequence,
                    entry.id,
                    static_cast<std::uint32_t>(entry.fds),
                    static_cast<std::uint32_t>(entry.message.size()),
                    shm::crc32c(bytes.begin(), bytes.size()),
                    0};
  header.headerCrc = crcOf(header);
  const off_t at = slotOf(entry.sequence);
  return pwrite(fd_.get(), bytes.begin(), bytes.size(), at + static_cast<off_t>(sizeof header)) ==
             static_cast<ssize_t>(bytes.size()) &&
         pwrite(fd_.get(), &header, sizeof header, at) == static_cast<ssize_t>(sizeof header);
}

void EndedRestores::keep(Entry entry) {
  std::erase_if(entries_, [&](const Entry& e) { return e.id == entry.id; });
  entries_.push_back(std::move(entry));
  if (entries_.size() > KEPT) entries_.pop_front();
}

bool EndedRestores::givenBack(std::uint64_t id) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [id](const Entry& e) { return e.id == id && e.fds == Fds::givenBack; });
}

void EndedRestores::fill(rpc::Coordinator::EndedResults::Builder results, const std::string& name) const {
  std::vector<kj::Own<capnp::FlatArrayMessageReader>> readers;
  std::vector<rpc::EndedRestore::Reader> found;
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    readers.push_back(kj::heap<capnp::FlatArrayMessageReader>(entry->message));
    const auto ended = readers.back()->getRoot<rpc::EndedRestore>();
    if (name.empty() || name == ended.getInfo().getName().cStr()) found.push_back(ended);
  }
  auto list = results.initRestores(static_cast<unsigned>(found.size()));
  for (unsigned i = 0; i < list.size(); i++) list.setWithCaveats(i, found[i]);
}

}  // namespace faultline::coordinator
