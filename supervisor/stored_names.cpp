#include "supervisor/stored_names.h"

#include <kj/debug.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

namespace faultline::supervisor {

namespace {

// A line of the index is NAME, a tab and where it is stored, or NAME alone: it is kept no more. The last line
// about a name counts; one without its line feed was never written to its end.
constexpr std::size_t REWRITTEN_FROM = 1 << 20;  // bytes

std::string contentOf(int fd) {
  struct stat status {};
  if (fd < 0 || fstat(fd, &status) != 0) return "";
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  const ssize_t got = pread(fd, text.data(), text.size(), 0);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return text;
}

kj::AutoCloseFd newIndex() {
  int fd;
  KJ_SYSCALL(fd = memfd_create("faultline-names", MFD_CLOEXEC), "make the index of what is stored");
  return kj::AutoCloseFd(fd);
}

}  // namespace

StoredNames::StoredNames(kj::AutoCloseFd index) : index_(kj::mv(index)) {
  const std::string text = contentOf(index_.get());
  std::size_t begin = 0;
  for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string line = text.substr(begin, end - begin);
    const std::size_t tab = line.find('\t');
    if (tab == std::string::npos)
      noted_.erase(line);
    else
      noted_[line.substr(0, tab)] = line.substr(tab + 1);
  }
  for (const auto& [name, stored] : noted_) left_.emplace(stored, name);
  bytes_ = begin;
  // A line that was cut short must not be the beginning of the next one.
  if (index_.get() >= 0 && begin != text.size()) rewrite();
}

std::vector<std::string> StoredNames::namesOf(const std::string& stored) const {
  const auto [begin, end] = left_.equal_range(stored);
  std::vector<std::string> names;
  for (auto entry = begin; entry != end; ++entry) names.push_back(entry->second);
  if (noted_.count(stored) == 0) names.push_back(stored);
  return names;
}

std::optional<std::string> StoredNames::storedAs(const std::string& name) const {
  const auto entry = stored_.find(name);
  return entry == stored_.end() ? std::nullopt : std::optional(entry->second);
}

void StoredNames::found(const std::string& name) {
  const auto entry = noted_.find(name);
  const std::string stored = entry == noted_.end() ? name : entry->second;
  stored_[name] = stored;
  names_[stored].push_back(name);
}

std::string StoredNames::placeFor(const std::string& name) const {
  std::string place = name;
  for (unsigned i = 2; isStored(place); i++) place = name + "~" + std::to_string(i);
  return place;
}

void StoredNames::reserve(const std::string& place) {
  if (noted_.count(place) == 0) note(place, "");
}

std::optional<std::string> StoredNames::put(const std::string& name, const std::string& stored) {
  if (storedAs(name) == stored) return std::nullopt;
  auto left = unlink(name);
  stored_[name] = stored;
  names_[stored].push_back(name);
  const auto noted = noted_.find(name);
  // Of most names there is nothing to be said.
  if (noted != noted_.end() ? noted->second != stored : name != stored) note(name, stored);
  return left;
}

std::optional<std::string> StoredNames::remove(const std::string& name) {
  if (storedAs(name) == std::nullopt) return std::nullopt;
  auto left = unlink(name);
  if (noted_.erase(name) != 0) {
    write(name + "\n");
  } else if (!left.has_value()) {
    // Something else is stored there, under other names: it must not be taken for this.
    note(name, "");
  }
  return left;
}

// Returns the place of `name`, if what is stored there has no name any more.
std::optional<std::string> StoredNames::unlink(const std::string& name) {
  const auto entry = stored_.find(name);
  if (entry == stored_.end()) return std::nullopt;
  const std::string stored = entry->second;
  stored_.erase(entry);
  auto& names = names_[stored];
  std::erase(names, name);
  if (!names.empty()) return std::nullopt;
  names_.erase(stored);
  return stored;
}

void StoredNames::note(const std::string& name, const std::string& stored) {
  noted_[name] = stored;
  write(name + "\t" + stored + "\n");
}

void StoredNames::write(const std::string& line) {
  if (index_.get() < 0 || bytes_ + line.size() > REWRITTEN_FROM) return rewrite();
  ssize_t written;
  KJ_SYSCALL(written = pwrite(index_.get(), line.data(), line.size(), static_cast<off_t>(bytes_)));
  bytes_ += static_cast<std::size_t>(written);
}

// In a file of its own, which counts only once it is stored.
void StoredNames::rewrite() {
  index_ = newIndex();
  fresh_ = true;
  bytes_ = 0;
  std::string text;
  for (const auto& [name, stored] : noted_) text.append(name).append("\t").append(stored).append("\n");
  for (std::size_t done = 0; done < text.size();) {
    ssize_t written;
    KJ_SYSCALL(written =
                   pwrite(index_.get(), text.data() + done, text.size() - done, static_cast<off_t>(done)));
    done += static_cast<std::size_t>(written);
  }
  bytes_ = text.size();
}

int StoredNames::takeFresh() {
  if (!fresh_) return -1;
  fresh_ = false;
  return index_.get();
}

}  // namespace faultline::supervisor
