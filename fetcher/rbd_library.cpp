#include "fetcher/rbd_library.h"

#include "fetcher/shared_library.h"

namespace faultline::fetcher {

namespace {

constexpr char WHAT[] = "no image of Ceph's can be read", WAY_OUT[] = "install librbd (Debian: librbd1)";

LoadedLibrary<RbdLibrary> library("librbd");

RbdLibrary found() {
  const SharedLibrary rados("librados.so.2", WHAT, WAY_OUT), rbd("librbd.so.1", WHAT, WAY_OUT);
  RbdLibrary found{};
  rados.find(found.create, "rados_create2");
  rados.find(found.confReadFile, "rados_conf_read_file");
  rados.find(found.confSet, "rados_conf_set");
  rados.find(found.confGet, "rados_conf_get");
  rados.find(found.connect, "rados_connect");
  rados.find(found.shutdown, "rados_shutdown");
  rados.find(found.clusterFsid, "rados_cluster_fsid");
  rados.find(found.ioctxCreate, "rados_ioctx_create");
  rados.find(found.ioctxDestroy, "rados_ioctx_destroy");
  rados.find(found.ioctxGetId, "rados_ioctx_get_id");
  rados.find(found.ioctxSetNamespace, "rados_ioctx_set_namespace");
  rbd.find(found.openReadOnly, "rbd_open_read_only");
  rbd.find(found.close, "rbd_close");
  rbd.find(found.getSize, "rbd_get_size");
  rbd.find(found.getId, "rbd_get_id");
  rbd.find(found.snapGetId, "rbd_snap_get_id");
  rbd.find(found.snapIsProtected, "rbd_snap_is_protected");
  rbd.find(found.diffIterate, "rbd_diff_iterate2");
  rbd.find(found.aioCreateCompletion, "rbd_aio_create_completion");
  rbd.find(found.aioRead, "rbd_aio_read");
  rbd.find(found.aioGetReturnValue, "rbd_aio_get_return_value");
  rbd.find(found.aioRelease, "rbd_aio_release");
  return found;
}

}  // namespace

const RbdLibrary& RbdLibrary::load() {
  return library.load(found);
}

const RbdLibrary& RbdLibrary::loaded() {
  return library.loaded();
}

}  // namespace faultline::fetcher
