// librbd and librados, loaded when a source wants them: a host without Ceph has no need of them.
#pragma once

#include <rados/librados.h>
#include <rbd/librbd.h>

namespace faultline::fetcher {

// The functions of them that are used. Any thread.
struct RbdLibrary {
  decltype(&rados_create2) create;
  decltype(&rados_conf_read_file) confReadFile;
  decltype(&rados_conf_set) confSet;
  decltype(&rados_conf_get) confGet;
  decltype(&rados_connect) connect;
  decltype(&rados_shutdown) shutdown;
  decltype(&rados_cluster_fsid) clusterFsid;
  decltype(&rados_ioctx_create) ioctxCreate;
  decltype(&rados_ioctx_destroy) ioctxDestroy;
  decltype(&rados_ioctx_get_id) ioctxGetId;
  decltype(&rados_ioctx_set_namespace) ioctxSetNamespace;
  decltype(&rbd_open_read_only) openReadOnly;
  decltype(&rbd_close) close;
  decltype(&rbd_get_size) getSize;
  decltype(&rbd_get_id) getId;
  decltype(&rbd_snap_get_id) snapGetId;
  decltype(&rbd_snap_is_protected) snapIsProtected;
  decltype(&rbd_diff_iterate2) diffIterate;
  decltype(&rbd_aio_create_completion) aioCreateCompletion;
  decltype(&rbd_aio_read) aioRead;
  decltype(&rbd_aio_get_return_value) aioGetReturnValue;
  decltype(&rbd_aio_release) aioRelease;

  // Loads them, once. Before there is a filter that opens no files. Throws std::runtime_error with the way out where they are
  // not there, or too old.
  static const RbdLibrary& load();
  // Returns what load() has brought. Throws as load() did; also where load() was not called.
  static const RbdLibrary& loaded();
};

}  // namespace faultline::fetcher
