// Under which names a service manager stores what is kept.
//
// A manager stores each open file description once: given it again under another name, systemd drops the
// second without a word (core/service.c, service_add_fd_store, by kcmp(2)). An fd that is kept under several
// names is therefore stored under one, and an index says which names it has. The index is a file in memory that is
// stored as well (process/kept_name.h, names); it is written before the manager hears of a change, so that a
// supervisor that is killed between any two instructions leaves nothing that its successor would not find. A
// name of which the index says nothing is stored as itself.
#pragma once

#include <kj/io.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace faultline::supervisor {

// Single-threaded.
class StoredNames {
 public:
  // `index`: a predecessor's; -1: there was none, and nothing is written before the first entry that needs
  // it.
  explicit StoredNames(kj::AutoCloseFd index = kj::AutoCloseFd());

  // The names that what a predecessor stored as `stored` has: those of the index, and its own unless that
  // says otherwise. None: it is a leftover.
  std::vector<std::string> namesOf(const std::string& stored) const;
  // The place where `name` is stored; nullopt where it is not.
  std::optional<std::string> storedAs(const std::string& name) const;
  bool isStored(const std::string& stored) const { return names_.count(stored) != 0; }

  // To be told of what the manager has under names that the index does not have.
  void found(const std::string& name);
  // A place for what `name` is from now on: `name` itself, unless something is stored there.
  std::string placeFor(const std::string& name) const;
  // Notes that what is stored at `place`, which is no name, has none until put(): before it is stored.
  void reserve(const std::string& place);
  // `name` is stored as `stored` from now on. Returns what is to be removed since it has no name any more.
  std::optional<std::string> put(const std::string& name, const std::string& stored);
  std::optional<std::string> remove(const std::string& name);

  // The index, which is to be stored, if it has been made, or made anew, since this was asked for last; borrowed. -1: it
  // was not.
  int takeFresh();
  std::size_t bytes() const { return bytes_; }

 private:
  void note(const std::string& name, const std::string& stored);
  void write(const std::string& line);
  void rewrite();
  std::optional<std::string> unlink(const std::string& name);

  kj::AutoCloseFd index_;
  bool fresh_ = false;
  std::size_t bytes_ = 0;
  std::map<std::string, std::string> stored_;              // by name
  std::map<std::string, std::vector<std::string>> names_;  // by where they are stored
  std::map<std::string, std::string> noted_;               // entries of the index, by name
  std::multimap<std::string, std::string> left_;           // its entries at first, by where things are stored
};

}  // namespace faultline::supervisor
