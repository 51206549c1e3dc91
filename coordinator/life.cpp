#include "coordinator/life.h"

#include <kj/debug.h>

#include <utility>

namespace faultline::coordinator {

bool Life::leads(Stage from, Stage to) {
  using enum Stage;
  switch (from) {
    case serving:
      return to == paused || to == complete || to == finishing || to == failed || to == releasing ||
             to == over;
    case paused:
      return to == serving || to == failed || to == releasing || to == over;
    case complete:
      return to == finishing || to == failed || to == releasing || to == over;
    case finishing:
      return to == complete || to == failed || to == releasing || to == over;
    case failed:
      return to == releasing || to == over;
    case releasing:
      return to == kept || to == departing || to == over;
    case kept:
      return to == departing || to == over;
    case departing:
      return to == over;
    case over:
      return false;
  }
  KJ_UNREACHABLE;
}

void Life::become(Stage next) {
  KJ_REQUIRE(may(next), "a restore cannot become that", nameOf(stage_), nameOf(next));
  stage_ = next;
  switch (next) {
    case Stage::serving:
      phase_ = rpc::Phase::SERVING;
      break;
    case Stage::paused:
      phase_ = rpc::Phase::PAUSED;
      break;
    case Stage::complete:
      phase_ = rpc::Phase::COMPLETE;
      break;
    case Stage::failed:
      phase_ = rpc::Phase::FAILED;
      break;
    default:
      break;
  }
}

void Life::fail(rpc::EndReason reason, std::string text) {
  become(Stage::failed);
  failure_ = Failure{reason, std::move(text)};
}

void Life::ends(rpc::EndReason reason, std::string text) {
  if (failed() && reason != rpc::EndReason::TARGET_KILLED) {
    reason = failure_->reason;
    text += "; it had failed: " + failure_->text;
  }
  end_.reason = reason;
  end_.text = std::move(text);
}

const char* nameOf(Life::Stage stage) {
  using enum Life::Stage;
  switch (stage) {
    case serving:
      return "serving";
    case paused:
      return "paused";
    case complete:
      return "complete";
    case finishing:
      return "finishing";
    case failed:
      return "failed";
    case releasing:
      return "releasing";
    case kept:
      return "kept";
    case departing:
      return "departing";
    case over:
      return "over";
  }
  KJ_UNREACHABLE;
}

}  // namespace faultline::coordinator
