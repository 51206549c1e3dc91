#include "coordinator/hooks_server.h"

#include <kj/debug.h>

#include "coordinator/armed_name.h"
#include "coordinator/service.h"
#include "rpc/answering.h"
#include "rpc/fd.h"
#include "rpc/process_hooks.h"

namespace faultline::coordinator {

namespace {

class TestHooksServer final : public rpc::Answering<rpc::TestHooks> {
 public:
  explicit TestHooksServer(Service& service) : service_(service) {}

  kj::Promise<void> installFaultBarrier(InstallFaultBarrierContext context) override {
    auto params = context.getParams();
    auto restore = service_.find(params.getRestore().cStr());
    requirePage(*restore, params.getPage());
    auto request = shardOf(*restore, params.getPage()).rpc().hooksRequest().send().getHooks().armRequest();
    request.setPoint(params.getPoint() == rpc::FaultPoint::BEFORE_READ_LOCK ? "beforeReadLock"
                                                                            : "beforeCopy");
    request.setAction(rpc::Action::PARK);
    request.setPage(params.getPage());
    return request.send().then([context](capnp::Response<rpc::ProcessHooks::ArmResults> response) mutable {
      context.getResults().setBarrier(response.getBarrier());
    });
  }

  kj::Promise<void> coordinator(CoordinatorContext context) override {
    // Not `this`: the hooks may be used after this capability was dropped.
    rpc::ArmSuccessor successor(
        [&service = service_](failpoints::Failpoints::Arm arm) { armSuccessor(service, arm); });
    context.getResults().setHooks(
        rpc::makeProcessHooks(service_.failpoints(), service_.io().unixEventPort, kj::mv(successor)));
    return kj::READY_NOW;
  }

  kj::Promise<void> shard(ShardContext context) override {
    ShardHandle* shard = service_.pool().up(context.getParams().getIndex());
    if (shard == nullptr) rpc::refuse(rpc::Reason::NOT_READY, "this shard is not up");
    return shard->rpc().hooksRequest().send().then(
        [context](capnp::Response<rpc::Shard::HooksResults> response) mutable {
          context.getResults().setHooks(response.getHooks());
        });
  }

  kj::Promise<void> ownerOf(OwnerOfContext context) override {
    auto params = context.getParams();
    auto restore = service_.find(params.getRestore().cStr());
    requirePage(*restore, params.getPage());
    ShardHandle& shard = shardOf(*restore, params.getPage());
    context.getResults().setShard(shard.index());
    context.getResults().setPid(static_cast<std::uint32_t>(shard.pid()));
    return kj::READY_NOW;
  }

  kj::Promise<void> setFencing(SetFencingContext context) override {
    for (const auto& [id, restore] : service_.restores())
      restore->reader().setFencing(context.getParams().getEnabled());
    return kj::READY_NOW;
  }

  kj::Promise<void> segment(SegmentContext context) override {
    auto restore = service_.find(context.getParams().getRestore().cStr());
    context.getResults().setSegment(rpc::makeFdFrom(restore->segment().fd()));
    return kj::READY_NOW;
  }

 private:
  static void requirePage(Restore& restore, std::uint64_t page) {
    if (page >= restore.segment().pages().pageCount())
      rpc::refuse(rpc::Reason::BAD_INPUT,
                  "restore " + restore.name() + " has no page " + std::to_string(page));
  }

  ShardHandle& shardOf(Restore& restore, shm::PageIndex page) {
    ShardHandle* shard = service_.pool().up(restore.segment().ownerOf(page));
    if (shard == nullptr) rpc::refuse(rpc::Reason::NOT_READY, "the page's shard is not up");
    return *shard;
  }

  // Laid down with the supervisor; the successor takes it up as it begins.
  static void armSuccessor(Service& service, const failpoints::Failpoints::Arm& arm) {
    const auto resume = process::KeptName::failpoint(nameOf(arm), process::KeptName::Part::resume);
    if (arm.reached.get() >= 0)
      service.link().store(resume.with(process::KeptName::Part::reached), arm.reached.get());
    KJ_REQUIRE(arm.resume.get() >= 0, "a successor's failpoint needs an eventfd to resume it by");
    service.link().store(resume, arm.resume.get());
  }

  Service& service_;
};

}  // namespace

rpc::TestHooks::Client makeTestHooks(Service& service) {
  return kj::heap<TestHooksServer>(service);
}

}  // namespace faultline::coordinator
