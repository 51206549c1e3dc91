#include "coordinator/restore_fds.h"

#include <kj/exception.h>
#include <spdlog/spdlog.h>

#include "process/kept_name.h"

namespace faultline::coordinator {

using process::KeptName;
using Part = KeptName::Part;

void RestoreFds::store(SupervisorLink& link, std::uint64_t id, int recording, int segment) const {
  auto keep = [&](Part part, int fd) {
    if (fd >= 0) link.store(KeptName::restore(id, part), fd);
  };
  keep(Part::uffd, uffd.get());
  coordinator::store(link, KeptName::restore(id, Part::segment), source);
  if (!layers.empty()) link.store(KeptName::restore(id, Part::names), keptLayers(layers));
  keep(Part::conn, conn.get());
  keep(Part::target, target.get());
  keep(Part::touches, recording);
  keep(Part::segment, segment);
}

void RestoreFds::drop(SupervisorLink& link, std::uint64_t id, std::size_t layers) {
  for (const Part part : {Part::segment, Part::uffd, Part::conn, Part::target, Part::touches, Part::names})
    link.drop(KeptName::restore(id, part));
  coordinator::drop(link, KeptName::restore(id, Part::segment), layers);
}

InheritedRestore RestoreFds::take(Fetcher& fetcher, Inheritance& inherited, std::uint64_t id) {
  const KeptName name = KeptName::restore(id, Part::segment);
  InheritedRestore taken{{inherited.take(name.with(Part::uffd)), coordinator::take(fetcher, inherited, name),
                          inherited.take(name.with(Part::conn)), inherited.take(name.with(Part::target)),
                          inherited.take(name.with(Part::touches))},
                         inherited.take(name)};
  taken.durable = taken.segment.get() >= 0 || inherited.lost.count(name) != 0;
  const kj::AutoCloseFd names = inherited.take(name.with(Part::names));
  KJ_IF_MAYBE (e, kj::runCatchingExceptions([&] {
                 if (names.get() >= 0) taken.fds.layers = layersFrom(names.get());
               }))
    spdlog::error("restore {}: {}", id, e->getDescription().cStr());
  return taken;
}

}  // namespace faultline::coordinator
