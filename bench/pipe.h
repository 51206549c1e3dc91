// A pipe between processes of the bench.
#pragma once

#include <fcntl.h>
#include <kj/io.h>
#include <unistd.h>

#include <stdexcept>

namespace faultline::bench {

struct Pipe {
  kj::AutoCloseFd read, write;
};

// Throws where there is none to be had.
inline Pipe makePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("cannot make a pipe");
  return {kj::AutoCloseFd(ends[0]), kj::AutoCloseFd(ends[1])};
}

}  // namespace faultline::bench
