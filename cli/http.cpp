// faultline http: the control interface as JSON over HTTP, on a Unix socket.

#include <kj/async-io.h>

#include <cstdio>

#include "cli/commands.h"
#include "cli/errors.h"
#include "cli/http_door.h"
#include "cli/restore_options.h"
#include "cli/session.h"
#include "cli/socket_file.h"

namespace faultline::cli {

namespace {

struct HttpOptions {
  std::string control = DEFAULT_CONTROL, socket = "/run/faultline/http.sock";
};

int serveHttp(const HttpOptions& options) {
  Interrupts::capture();
  auto io = kj::setupAsyncIo();
  SocketFile socket(options.socket);
  auto receiver = io.lowLevelProvider->wrapListenSocketFd(
      socket.take().release(),
      kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP | kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC);
  HttpDoor door(io, options.control);
  printf("serving HTTP at %s; try: curl --unix-socket %s http://localhost/v1/status\n",
         options.socket.c_str(), options.socket.c_str());
  fflush(stdout);
  Interrupts interrupts(io.unixEventPort);
  door.serve(*receiver).exclusiveJoin(interrupts.next()).wait(io.waitScope);
  return OK;
}

}  // namespace

void addHttp(CLI::App& app, Result& chosen) {
  auto options = std::make_shared<HttpOptions>();
  CLI::App* command = app.add_subcommand("http", "The control interface as JSON over HTTP, on a Unix socket");
  command->description(
      "Answer HTTP/1.1 on a Unix socket (mode 0600): every call of the control interface that needs no file\n"
      "descriptor, as JSON. For programs in languages without Cap'n Proto, and for curl.\n\n"
      "A process of its own: it asks by the control socket, waits for a coordinator's successor, and the "
      "service "
      "does not\n"
      "know of it.\n\n"
      "Examples:\n"
      "  faultline http --socket /run/faultline/http.sock\n"
      "  curl --unix-socket /run/faultline/http.sock http://localhost/v1/restores\n\n"
      "Every path: docs/http.md.");
  addControl(*command, options->control);
  command->add_option("--socket", options->socket, "Where clients connect")->capture_default_str();
  command->footer(EXIT_CODES);
  command->callback([options, &chosen] { chosen = [options] { return serveHttp(*options); }; });
}

}  // namespace faultline::cli
