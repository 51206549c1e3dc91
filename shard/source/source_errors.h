// Which errors of a source may pass in time. A page is tried again until the operator's patience ends
// (--source-patience); after any other error it is given up at once.
#pragma once

#include <algorithm>
#include <cerrno>
#include <iterator>

namespace faultline::shard {

// The store, or the way to it, is not well just now: what a disk, a multipath device, a network file system
// or a network block device says of it (block/blk-core.c, blk_errors[]; connect(2), recv(2)). Or this host is short
// of memory: ENOMEM, and EFAULT where the kernel has none for a page of the buffer that it reads into
// (arch/x86/mm/fault.c, do_user_addr_fault: VM_FAULT_OOM in kernel mode).
inline constexpr int PASSING_ERRORS[] = {
    EIO,         EAGAIN,    EINTR,        EBUSY,        ENOMEM,       EFAULT,   ENOBUFS,
    ETIMEDOUT,   ETIME,     EREMOTEIO,    ENOLINK,      ENODATA,      EBADE,    ECOMM,
    EPIPE,       ENOTCONN,  ECONNRESET,   ECONNABORTED, ECONNREFUSED, ENETDOWN, ENETRESET,
    ENETUNREACH, EHOSTDOWN, EHOSTUNREACH, ESHUTDOWN,
};

// `error`: errno of a read. 0, that the file ends before the bytes, does not pass; nor does what says that
// they are wrong (EBADMSG, EILSEQ), that the file has gone (ESTALE, ENODEV), or that this read is not
// possible at all.
inline bool mayPass(int error) {
  return std::find(std::begin(PASSING_ERRORS), std::end(PASSING_ERRORS), error) != std::end(PASSING_ERRORS);
}

}  // namespace faultline::shard
