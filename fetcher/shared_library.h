// A library that is loaded while the program runs: one that not every host has.
#pragma once

#include <dlfcn.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace faultline::fetcher {

// A library that is loaded stays for good.
class SharedLibrary {
 public:
  // `wayOut`: for people, what to install. Throws std::runtime_error.
  SharedLibrary(const char* file, const char* what, const char* wayOut)
      : file_(file), wayOut_(wayOut), handle_(dlopen(file, RTLD_NOW | RTLD_LOCAL)) {
    if (handle_ == nullptr) throw std::runtime_error(std::string(what) + ": " + dlerror() + "; " + wayOut);
  }

  // The type is that of the library's header; its version is part of the file's name. Throws std::runtime_error.
  template <typename Function>
  void find(Function& function, const char* name) const {
    void* address = dlsym(handle_, name);
    if (address == nullptr)
      throw std::runtime_error(std::string(file_) + " has no " + name + ": it is too old; " + wayOut_);
    function = reinterpret_cast<Function>(address);
  }

 private:
  const char* file_;
  const char* wayOut_;
  void* handle_;
};

// The functions of a library that is loaded once. Used by one thread until load() has succeeded, then by any.
template <typename Functions>
class LoadedLibrary {
 public:
  // `name`: for people.
  explicit LoadedLibrary(const std::string& name) : failure_(name + " was not loaded") {}

  // `find`: brings the functions; not called again once it has. Throws as it does.
  const Functions& load(Functions (*find)()) {
    if (functions_ == nullptr) {
      try {
        functions_ = std::make_unique<const Functions>(find());
      } catch (const std::runtime_error& error) {
        failure_ = error.what();
        throw;
      }
    }
    return *functions_;
  }
  // Returns what load() has brought. Throws as load() did; also where load() was not called.
  const Functions& loaded() const {
    if (functions_ == nullptr) throw std::runtime_error(failure_);
    return *functions_;
  }

 private:
  std::unique_ptr<const Functions> functions_;
  std::string failure_;
};

}  // namespace faultline::fetcher
