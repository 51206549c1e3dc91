#include "cli/http_door.h"

#include <capnp/dynamic.h>
#include <capnp/schema.h>
#include <kj/debug.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "cli/http_settings.h"
#include "cli/json_call.h"
#include "rpc/connection.h"
#include "rpc/control.capnp.h"
#include "rpc/refusal.h"

namespace faultline::cli {

namespace {

constexpr kj::Duration ACCEPT_AGAIN = 100 * kj::MILLISECONDS;  // after fds ran out
constexpr kj::Duration LOOK_FOR_RESTORE =
    20 * kj::MILLISECONDS;                          // between two looks for one that is not there yet
constexpr std::uint64_t SILENCE_LIMIT_MS = 30'000;  // of a call that waits for nothing

// Reasons of the door, beside those of rpc/reasons.capnp.
constexpr const char *TIMED_OUT = "timedOut", *DISCONNECTED_REASON = "disconnected", *NO_PATH = "noSuchPath",
                     *NO_METHOD = "noSuchMethod", *TOO_LARGE = "tooLarge", *NO_HTTP = "badRequest";

unsigned statusOf(rpc::Reason reason) {
  switch (reason) {
    case rpc::Reason::BAD_INPUT:
      return 400;
    case rpc::Reason::FORBIDDEN:
      return 403;
    case rpc::Reason::NOT_FOUND:
      return 404;
    case rpc::Reason::NAME_TAKEN:
    case rpc::Reason::WRONG_PHASE:
    case rpc::Reason::PAGES_MISSING:
    case rpc::Reason::OTHER_BUILD:
      return 409;
    case rpc::Reason::ENDED:
      return 410;
    case rpc::Reason::BAD_SOURCE:
    case rpc::Reason::BAD_TARGET:
      return 422;
    case rpc::Reason::LIMIT_REACHED:
      return 429;
    case rpc::Reason::UNSUPPORTED:
      return 501;
    case rpc::Reason::NOT_READY:
    case rpc::Reason::ENDING:
      return 503;
    case rpc::Reason::FAILED:
      break;
  }
  return 500;
}

const char* phraseOf(unsigned status) {
  switch (status) {
    case 200:
      return "OK";
    case 202:
      return "Accepted";
    case 400:
      return "Bad Request";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 409:
      return "Conflict";
    case 410:
      return "Gone";
    case 413:
      return "Content Too Large";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Internal Server Error";
  }
}

bool isDisconnect(const kj::Exception& error) {
  return error.getType() == kj::Exception::Type::DISCONNECTED;
}

capnp::InterfaceSchema schemaOf(Route::Subject subject) {
  switch (subject) {
    case Route::Subject::coordinator:
      return capnp::Schema::from<rpc::Coordinator>();
    case Route::Subject::restore:
      return capnp::Schema::from<rpc::Restore>();
    case Route::Subject::recordedWorkingSet:
      return capnp::Schema::from<rpc::RecordedWorkingSet>();
  }
  KJ_UNREACHABLE;
}

// Takes "KEY=NUMBER" out of a query.
std::optional<std::uint64_t> takeNumber(std::string& query, const std::string& key) {
  for (std::size_t at = 0; at < query.size();) {
    const std::size_t end = std::min(query.find('&', at), query.size());
    if (query.compare(at, key.size() + 1, key + "=") != 0) {
      at = end + 1;
      continue;
    }
    const std::string text = query.substr(at + key.size() + 1, end - at - key.size() - 1);
    std::uint64_t number = 0;
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (text.empty() || error != std::errc() || rest != text.data() + text.size())
      rpc::refuse(rpc::Reason::BAD_INPUT, key + " is no number");
    query.erase(at, end - at + 1);
    return number;
  }
  return std::nullopt;
}

}  // namespace

// A request, once its body has come.
struct HttpDoor::Asked {
  const Route& route;
  std::string name, query, body;
  bool asked = false;  // a server was there
};

HttpDoor::HttpDoor(kj::AsyncIoContext& io, std::string control)
    : io_(io),
      timer_(io.provider->getTimer()),
      control_(std::move(control)),
      caching_(names_.add("Cache-Control")),
      table_(names_.build()),
      server_(timer_, *table_, *this, httpSettings(*this, REQUEST_LIMIT)),
      tasks_(*this) {}

kj::Promise<void> HttpDoor::serve(kj::ConnectionReceiver& receiver) {
  return whenFewer()
      .then([&receiver] { return receiver.accept(); })
      .then(
          [this](kj::Own<kj::AsyncIoStream> stream) -> kj::Promise<void> {
            open_++;
            auto gone = stream->whenWriteDisconnected();
            auto served = server_.listenHttpCleanDrain(*stream).ignoreResult().exclusiveJoin(kj::mv(gone));
            tasks_.add(served.attach(kj::mv(stream)).attach(kj::defer([this] {
              open_--;
              if (fewer_.get() != nullptr) fewer_->fulfill();
            })));
            return kj::READY_NOW;
          },
          [this](kj::Exception&&) -> kj::Promise<void> { return timer_.afterDelay(ACCEPT_AGAIN); })
      .then([this, &receiver] { return serve(receiver); });
}

kj::Promise<void> HttpDoor::whenFewer() {
  if (open_ < MAX_CONNECTIONS) return kj::READY_NOW;
  auto paf = kj::newPromiseAndFulfiller<void>();
  fewer_ = kj::mv(paf.fulfiller);
  return kj::mv(paf.promise);
}

kj::Promise<void> HttpDoor::request(kj::HttpMethod method, kj::StringPtr url, const kj::HttpHeaders&,
                                    kj::AsyncInputStream& body, Response& response) {
  const std::string whole = url.cStr();
  const std::size_t question = std::min(whole.find('?'), whole.size());
  const auto found = routeFor(method, whole.substr(0, question));
  if (!found.has_value())
    return send(response,
                {404, jsonOfFailure(NO_PATH, "there is no such path: docs/http.md has all of them")});
  if (found->route == nullptr)
    return send(response, {405, jsonOfFailure(NO_METHOD, "this path has another method: docs/http.md")});
  auto asked = std::make_shared<Asked>(
      Asked{*found->route, found->name, question < whole.size() ? whole.substr(question + 1) : "", ""});
  const auto tooLarge = [] {
    return Answer{413, jsonOfFailure(TOO_LARGE, "a body has at most " + std::to_string(MAX_BODY) + " bytes")};
  };
  KJ_IF_MAYBE (length, body.tryGetLength()) {
    if (*length > MAX_BODY) return send(response, tooLarge());
  }
  struct Taken {
    kj::Array<char> bytes = kj::heapArray<char>(MAX_BODY + 1);
  };
  auto taken = std::make_shared<Taken>();
  auto late = timer_.afterDelay(REQUEST_LIMIT).then([]() -> std::size_t {
    KJ_FAIL_REQUIRE("the request does not come");
  });
  return body.tryRead(taken->bytes.begin(), taken->bytes.size(), taken->bytes.size())
      .exclusiveJoin(kj::mv(late))
      .then([this, asked, taken, tooLarge](std::size_t bytes) -> kj::Promise<Answer> {
        if (bytes > MAX_BODY) return tooLarge();
        asked->body.assign(taken->bytes.begin(), bytes);
        taken->bytes = nullptr;
        return answerTo(asked);
      })
      .then([this, &response](Answer answer) { return send(response, std::move(answer)); });
}

kj::Promise<HttpDoor::Answer> HttpDoor::answerTo(std::shared_ptr<Asked> asked) {
  return kj::evalNow([&]() -> kj::Promise<Answer> {
           const bool waits = asked->route.wait != Route::Wait::no;
           std::uint64_t limit = SILENCE_LIMIT_MS;
           if (waits)
             limit =
                 std::min(takeNumber(asked->query, "timeout_ms").value_or(DEFAULT_WAIT_MS), LONGEST_WAIT_MS);
           auto late = timer_.afterDelay(limit * kj::MILLISECONDS).then([asked, waits]() -> Answer {
             if (asked->route.wait == Route::Wait::orEmpty) return {200, R"({"events":[],"lost":"0"})"};
             return {504, jsonOfFailure(TIMED_OUT, waits ? "what was waited for has not come in time"
                                                         : "the server does not answer")};
           });
           return call(asked).exclusiveJoin(kj::mv(late));
         })
      .catch_([](kj::Exception&& error) -> Answer {
        if (isDisconnect(error))
          return {503, jsonOfFailure(DISCONNECTED_REASON, rpc::refusalOf(error).message)};
        if (error.getType() == kj::Exception::Type::UNIMPLEMENTED)
          return {501, jsonOfFailure("unsupported", "this server does not have that call")};
        const rpc::Refusal refusal = rpc::refusalOf(error);
        return {statusOf(refusal.reason), jsonOfFailure(rpc::nameOf(refusal.reason), refusal.message)};
      });
}

// Calls that only ask, and those that end the service, are asked again of the coordinator's successor, and a restore
// that is to come is looked for again. A service that ends may be gone before its answer is read: then it has done what
// it was asked for.
kj::Promise<HttpDoor::Answer> HttpDoor::call(std::shared_ptr<Asked> asked) {
  kj::Own<rpc::Connection> connection;
  auto failure = kj::runCatchingExceptions(
      [&] { connection = kj::heap<rpc::Connection>(*io_.lowLevelProvider, rpc::connectTo(control_)); });
  KJ_IF_MAYBE (error, failure) {
    if (asked->route.ends && asked->asked) return Answer{200, "{}"};
    return kj::mv(*error);
  }
  asked->asked = true;
  return kj::evalNow([&] { return callBy(kj::mv(connection), asked); })
      .catch_([this, asked](kj::Exception&& error) -> kj::Promise<Answer> {
        const bool asksAgain =
            (asked->route.http == kj::HttpMethod::GET || asked->route.ends) && isDisconnect(error);
        const bool comesLater =
            asked->route.wait == Route::Wait::there && rpc::refusalOf(error).reason == rpc::Reason::NOT_FOUND;
        if (asksAgain || comesLater)  // until the time that the caller gives is over
          return timer_.afterDelay(LOOK_FOR_RESTORE).then([this, asked] { return call(asked); });
        // The answer is that the connection has ended with this coordinator.
        if (asked->route.call == "upgrade" && isDisconnect(error)) return Answer{202, "{}"};
        return kj::mv(error);
      });
}

kj::Promise<HttpDoor::Answer> HttpDoor::callBy(kj::Own<rpc::Connection> connection,
                                               const std::shared_ptr<Asked>& asked) {
  auto coordinator = connection->bootstrap().castAs<rpc::Coordinator>();
  const Route& route = asked->route;
  // A DynamicCapability::Client takes over what it is made of, of an lvalue as well.
  capnp::DynamicCapability::Client subject{rpc::Coordinator::Client(coordinator)};
  if (route.subject != Route::Subject::coordinator) {
    auto request = coordinator.restoreRequest();
    request.setName(asked->name.c_str());
    auto restore = request.send().getRestore();
    if (route.subject == Route::Subject::restore)
      subject = capnp::DynamicCapability::Client(rpc::Restore::Client(restore));
    else
      subject = capnp::DynamicCapability::Client(restore.workingSetRequest().send().getWorkingSet());
  }
  auto call = subject.newRequest(
      schemaOf(route.subject).getMethodByName(kj::StringPtr(route.call.data(), route.call.size())));
  fillFromJson(call, asked->query, asked->body, std::string(route.body));
  if (!route.named.empty())
    call.set(kj::StringPtr(route.named.data(), route.named.size()), asked->name.c_str());
  return call.send()
      .then([](capnp::Response<capnp::DynamicStruct> response) -> Answer {
        return {200, jsonOf(response)};
      })
      .attach(kj::mv(subject), kj::mv(coordinator), kj::mv(connection));
}

kj::Promise<void> HttpDoor::send(Response& response, Answer answer) {
  kj::HttpHeaders headers(*table_);
  headers.set(kj::HttpHeaderId::CONTENT_TYPE, "application/json");
  headers.set(caching_, "no-store");
  auto text = kj::heap<std::string>(std::move(answer.text) + "\n");
  auto stream = response.send(answer.status, phraseOf(answer.status), headers, text->size());
  auto written = stream->write(text->data(), text->size());
  auto late = timer_.afterDelay(REQUEST_LIMIT).then([] { KJ_FAIL_REQUIRE("the answer is not taken"); });
  return written.exclusiveJoin(kj::mv(late)).attach(kj::mv(stream), kj::mv(text));
}

kj::Promise<void> HttpDoor::handleClientProtocolError(kj::HttpHeaders::ProtocolError error,
                                                      Response& response) {
  return send(response, {error.statusCode, jsonOfFailure(NO_HTTP, error.description.cStr())});
}

// A client that cannot be answered is not logged: KJ would log it, with a stack.
kj::Promise<void> HttpDoor::handleApplicationError(kj::Exception, kj::Maybe<Response&> response) {
  KJ_IF_MAYBE (open, response) {
    return send(*open, {500, jsonOfFailure("failed", "the request could not be answered")});
  }
  return kj::READY_NOW;
}

}  // namespace faultline::cli
