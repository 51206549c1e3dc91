// A virtual machine over /dev/kvm with the least there is to one: memory, vCPUs, ports.
#pragma once

#include <kj/io.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/kvm/guest_memory.h"

namespace faultline::kvm {

// Why no machine can be made here; empty where one can.
std::string whyNoKvm();

// Answers a port. `out`: whether the guest writes (then the result is not used). Called in the vCPU's thread.
using PortHandler = std::function<std::uint32_t(bool out, std::uint16_t port, std::uint32_t value)>;

class Vm {
 public:
  // The memory must outlive it. Throws std::system_error, here and below, where KVM refuses.
  explicit Vm(GuestMemory& memory);
  ~Vm();
  Vm(const Vm&) = delete;

  // A vCPU in 32-bit protected mode without paging, flat segments but %fs, which begins at `block`.
  void addVcpu(std::uint32_t entry, std::uint32_t block, std::uint32_t stack);
  std::size_t vcpus() const { return vcpus_.size(); }
  // Runs a vCPU in this thread until it halts.
  void run(std::size_t vcpu, const PortHandler& port);

 private:
  class Vcpu;

  kj::AutoCloseFd kvm_, vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace faultline::kvm
