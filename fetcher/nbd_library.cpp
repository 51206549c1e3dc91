#include "fetcher/nbd_library.h"

#include "fetcher/shared_library.h"
#include "fetcher/tls_handshake.h"

namespace faultline::fetcher {

namespace {

LoadedLibrary<NbdLibrary> library("libnbd");

NbdLibrary found() {
  const SharedLibrary file("libnbd.so.0", "no NBD server can be asked", "install libnbd (Debian: libnbd0)");
  NbdLibrary nbd{};
  file.find(nbd.create, "nbd_create");
  file.find(nbd.close, "nbd_close");
  file.find(nbd.getError, "nbd_get_error");
  file.find(nbd.getErrno, "nbd_get_errno");
  file.find(nbd.setExportName, "nbd_set_export_name");
  file.find(nbd.addMetaContext, "nbd_add_meta_context");
  file.find(nbd.setPreadInitialize, "nbd_set_pread_initialize");
  file.find(nbd.setTls, "nbd_set_tls");
  file.find(nbd.setTlsUsername, "nbd_set_tls_username");
  file.find(nbd.setTlsPskFile, "nbd_set_tls_psk_file");
  file.find(nbd.setTlsCertificates, "nbd_set_tls_certificates");
  file.find(nbd.setTlsVerifyPeer, "nbd_set_tls_verify_peer");
  file.find(nbd.aioConnectSocket, "nbd_aio_connect_socket");
  file.find(nbd.aioGetFd, "nbd_aio_get_fd");
  file.find(nbd.aioGetDirection, "nbd_aio_get_direction");
  file.find(nbd.aioNotifyRead, "nbd_aio_notify_read");
  file.find(nbd.aioNotifyWrite, "nbd_aio_notify_write");
  file.find(nbd.aioIsReady, "nbd_aio_is_ready");
  file.find(nbd.aioIsProcessing, "nbd_aio_is_processing");
  file.find(nbd.aioIsDead, "nbd_aio_is_dead");
  file.find(nbd.aioIsClosed, "nbd_aio_is_closed");
  file.find(nbd.aioPread, "nbd_aio_pread");
  file.find(nbd.aioBlockStatus, "nbd_aio_block_status");
  file.find(nbd.getSize, "nbd_get_size");
  file.find(nbd.getBlockSize, "nbd_get_block_size");
  file.find(nbd.canMultiConn, "nbd_can_multi_conn");
  file.find(nbd.canMetaContext, "nbd_can_meta_context");
  TlsHandshake::load();
  return nbd;
}

}  // namespace

const NbdLibrary& NbdLibrary::load() {
  return library.load(found);
}

const NbdLibrary& NbdLibrary::loaded() {
  return library.loaded();
}

}  // namespace faultline::fetcher
