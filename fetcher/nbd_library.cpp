#include "fetcher/nbd_library.h"

#include <dlfcn.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace faultline::fetcher {

namespace {

constexpr char FILE_NAME[] = "libnbd.so.0", WAY_OUT[] = "; install libnbd (Debian: libnbd0)";

std::unique_ptr<const NbdLibrary> library;
std::string failure = "libnbd was not loaded";

class Symbols {
 public:
  Symbols() : file_(dlopen(FILE_NAME, RTLD_NOW | RTLD_LOCAL)) {
    if (file_ == nullptr)
      throw std::runtime_error(std::string("no NBD server can be asked: ") + dlerror() + WAY_OUT);
  }
  // The type is that of libnbd.h, whose library keeps it while its name ends in .0.
  template <typename Function>
  void find(Function& function, const char* name) const {
    void* address = dlsym(file_, name);
    if (address == nullptr)
      throw std::runtime_error(std::string(FILE_NAME) + " has no " + name + ": it is too old" + WAY_OUT);
    function = reinterpret_cast<Function>(address);
  }

 private:
  void* file_;  // for good
};

NbdLibrary found() {
  const Symbols symbols;
  NbdLibrary library{};
  symbols.find(library.create, "nbd_create");
  symbols.find(library.close, "nbd_close");
  symbols.find(library.getError, "nbd_get_error");
  symbols.find(library.getErrno, "nbd_get_errno");
  symbols.find(library.setExportName, "nbd_set_export_name");
  symbols.find(library.addMetaContext, "nbd_add_meta_context");
  symbols.find(library.setPreadInitialize, "nbd_set_pread_initialize");
  symbols.find(library.setTls, "nbd_set_tls");
  symbols.find(library.setTlsUsername, "nbd_set_tls_username");
  symbols.find(library.setTlsPskFile, "nbd_set_tls_psk_file");
  symbols.find(library.setTlsCertificates, "nbd_set_tls_certificates");
  symbols.find(library.setTlsVerifyPeer, "nbd_set_tls_verify_peer");
  symbols.find(library.aioConnectSocket, "nbd_aio_connect_socket");
  symbols.find(library.aioGetFd, "nbd_aio_get_fd");
  symbols.find(library.aioGetDirection, "nbd_aio_get_direction");
  symbols.find(library.aioNotifyRead, "nbd_aio_notify_read");
  symbols.find(library.aioNotifyWrite, "nbd_aio_notify_write");
  symbols.find(library.aioIsReady, "nbd_aio_is_ready");
  symbols.find(library.aioIsProcessing, "nbd_aio_is_processing");
  symbols.find(library.aioIsDead, "nbd_aio_is_dead");
  symbols.find(library.aioIsClosed, "nbd_aio_is_closed");
  symbols.find(library.aioPread, "nbd_aio_pread");
  symbols.find(library.aioBlockStatus, "nbd_aio_block_status");
  symbols.find(library.getSize, "nbd_get_size");
  symbols.find(library.getBlockSize, "nbd_get_block_size");
  symbols.find(library.canMultiConn, "nbd_can_multi_conn");
  symbols.find(library.canMetaContext, "nbd_can_meta_context");
  return library;
}

}  // namespace

const NbdLibrary& NbdLibrary::load() {
  if (library == nullptr) {
    try {
      library = std::make_unique<const NbdLibrary>(found());
    } catch (const std::runtime_error& error) {
      failure = error.what();
      throw;
    }
  }
  return *library;
}

const NbdLibrary& NbdLibrary::loaded() {
  if (library == nullptr) throw std::runtime_error(failure);
  return *library;
}

}  // namespace faultline::fetcher
