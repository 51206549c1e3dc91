#include "coordinator/held_work.h"

namespace faultline::coordinator {

kj::Promise<void> whenReleased(kj::UnixEventPort& port, kj::AutoCloseFd resume) {
  if (resume.get() < 0) return kj::READY_NOW;
  auto observer = kj::heap<kj::UnixEventPort::FdObserver>(port, resume.get(),
                                                          kj::UnixEventPort::FdObserver::OBSERVE_READ);
  auto released = observer->whenBecomesReadable();
  return released.attach(kj::mv(observer)).attach(kj::mv(resume));  // in this order
}

}  // namespace faultline::coordinator
