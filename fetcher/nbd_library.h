// libnbd, loaded when a source wants it: a host whose memories are plain files or packed ones has no need of it.
#pragma once

#include <libnbd.h>

namespace faultline::fetcher {

// The functions of it that are used, by their names without the prefix (libnbd(3)). Any thread; a handle is one thread's at a
// time.
struct NbdLibrary {
  decltype(&nbd_create) create;
  decltype(&nbd_close) close;
  decltype(&nbd_get_error) getError;
  decltype(&nbd_get_errno) getErrno;
  decltype(&nbd_set_export_name) setExportName;
  decltype(&nbd_add_meta_context) addMetaContext;
  decltype(&nbd_set_pread_initialize) setPreadInitialize;
  decltype(&nbd_set_tls) setTls;
  decltype(&nbd_set_tls_username) setTlsUsername;
  decltype(&nbd_set_tls_psk_file) setTlsPskFile;
  decltype(&nbd_set_tls_certificates) setTlsCertificates;
  decltype(&nbd_set_tls_verify_peer) setTlsVerifyPeer;
  decltype(&nbd_aio_connect_socket) aioConnectSocket;
  decltype(&nbd_aio_get_fd) aioGetFd;
  decltype(&nbd_aio_get_direction) aioGetDirection;
  decltype(&nbd_aio_notify_read) aioNotifyRead;
  decltype(&nbd_aio_notify_write) aioNotifyWrite;
  decltype(&nbd_aio_is_ready) aioIsReady;
  decltype(&nbd_aio_is_processing) aioIsProcessing;
  decltype(&nbd_aio_is_dead) aioIsDead;
  decltype(&nbd_aio_is_closed) aioIsClosed;
  decltype(&nbd_aio_pread) aioPread;
  decltype(&nbd_aio_block_status) aioBlockStatus;
  decltype(&nbd_get_size) getSize;
  decltype(&nbd_get_block_size) getBlockSize;
  decltype(&nbd_can_multi_conn) canMultiConn;
  decltype(&nbd_can_meta_context) canMetaContext;

  // Loads it, once. Before there is a filter that opens no files. Throws std::runtime_error with the way out where it is not
  // there, or too old.
  static const NbdLibrary& load();
  // Returns what load() has brought. Throws as load() did; also where load() was not called.
  static const NbdLibrary& loaded();
};

}  // namespace faultline::fetcher
