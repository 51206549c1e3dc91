#include "tests/kvm/vm.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <system_error>

namespace faultline::kvm {

namespace {

template <typename... Argument>
int checked(const char* what, int fd, unsigned long request, Argument... argument) {
  const int result = ioctl(fd, request, argument...);
  if (result < 0) throw std::system_error(errno, std::generic_category(), what);
  return result;
}

kj::AutoCloseFd openKvm() {
  return kj::AutoCloseFd(open("/dev/kvm", O_RDWR | O_CLOEXEC));
}

// All 4 GiB from `base` on (Intel SDM volume 3, 3.4.5: segment descriptors).
kvm_segment flat(std::uint64_t base, std::uint16_t selector, std::uint8_t type) {
  kvm_segment segment{};
  segment.base = base;
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = segment.db = segment.s = segment.g = 1;
  return segment;
}
constexpr std::uint8_t CODE = 11, DATA = 3;
constexpr std::uint64_t PROTECTED = 1;  // CR0.PE

}  // namespace

std::string whyNoKvm() {
  const kj::AutoCloseFd kvm = openKvm();
  if (kvm.get() < 0) return std::string("/dev/kvm cannot be opened: ") + std::strerror(errno);
  const kj::AutoCloseFd vm(ioctl(kvm.get(), KVM_CREATE_VM, 0));
  if (vm.get() < 0) return std::string("/dev/kvm makes no virtual machine: ") + std::strerror(errno);
  return "";
}

class Vm::Vcpu {
 public:
  Vcpu(int kvm, int vm, std::size_t id)
      : fd_(checked("make a vCPU", vm, KVM_CREATE_VCPU, id)),
        bytes_(static_cast<std::size_t>(checked("ask for a vCPU's size", kvm, KVM_GET_VCPU_MMAP_SIZE, 0))) {
    void* start = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    if (start == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "map a vCPU");
    run_ = static_cast<kvm_run*>(start);
  }
  ~Vcpu() { munmap(run_, bytes_); }
  Vcpu(const Vcpu&) = delete;

  void setUp(std::uint32_t entry, std::uint32_t block, std::uint32_t stack) {
    kvm_sregs segments{};
    checked("read a vCPU's segments", fd_.get(), KVM_GET_SREGS, &segments);
    segments.cr0 |= PROTECTED;
    segments.cs = flat(0, 8, CODE);
    segments.ds = segments.es = segments.ss = segments.gs = flat(0, 16, DATA);
    segments.fs = flat(block, 16, DATA);
    checked("set a vCPU's segments", fd_.get(), KVM_SET_SREGS, &segments);
    kvm_regs registers{};
    registers.rip = entry;
    registers.rsp = stack;
    registers.rflags = 2;  // the bit that is always set
    checked("set a vCPU's registers", fd_.get(), KVM_SET_REGS, &registers);
  }

  void run(const PortHandler& port) {
    for (;;) {
      if (ioctl(fd_.get(), KVM_RUN, 0) != 0) {
        if (errno == EINTR) continue;
        throw std::system_error(errno, std::generic_category(), "run a vCPU");
      }
      if (run_->exit_reason == KVM_EXIT_HLT) return;
      if (run_->exit_reason != KVM_EXIT_IO || run_->io.size != 4 || run_->io.count != 1)
        throw std::runtime_error("a vCPU stopped for a reason that this guest has not: " +
                                 std::to_string(run_->exit_reason));
      auto* value = reinterpret_cast<std::uint32_t*>(reinterpret_cast<char*>(run_) + run_->io.data_offset);
      const bool out = run_->io.direction == KVM_EXIT_IO_OUT;
      const std::uint32_t answer = port(out, run_->io.port, *value);
      if (!out) *value = answer;
    }
  }

 private:
  kj::AutoCloseFd fd_;
  std::size_t bytes_;
  kvm_run* run_;
};

Vm::Vm(GuestMemory& memory)
    : kvm_(openKvm()), vm_(checked("make a virtual machine", kvm_.get(), KVM_CREATE_VM, 0)) {
  std::uint32_t slot = 0;
  for (const MemoryPart& part : memory.parts()) {
    kvm_userspace_memory_region region{};
    region.slot = slot++;
    region.guest_phys_addr = part.guestAddress;
    region.memory_size = part.size;
    region.userspace_addr = reinterpret_cast<std::uint64_t>(memory.host(part.guestAddress));
    checked("give memory to a virtual machine", vm_.get(), KVM_SET_USER_MEMORY_REGION, &region);
  }
}

Vm::~Vm() = default;

void Vm::addVcpu(std::uint32_t entry, std::uint32_t block, std::uint32_t stack) {
  vcpus_.push_back(std::make_unique<Vcpu>(kvm_.get(), vm_.get(), vcpus_.size()));
  vcpus_.back()->setUp(entry, block, stack);
}

void Vm::run(std::size_t vcpu, const PortHandler& port) {
  vcpus_[vcpu]->run(port);
}

}  // namespace faultline::kvm
