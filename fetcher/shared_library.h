// A library that is loaded while the program runs: one that not every host has.
#pragma once

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace faultline::fetcher {

// Once loaded, it stays for good.
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

}  // namespace faultline::fetcher
