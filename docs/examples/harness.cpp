// A harness of faultline: has a snapshot served at a socket, populates all of its target, and says how it ended.
//
//   c++ -std=c++20 -o harness harness.cpp $(pkg-config --cflags --libs faultline-control)
//   ./harness /run/faultline/control.sock vm.mem /tmp/vm.sock
//
// Every call: docs/control-api.md. A coordinator that is replaced meanwhile ends the connection with an exception of type
// DISCONNECTED: reconnect(), and ask for the restore by its name.
#include <rpc/client.h>
#include <rpc/refusal.h>

#include <cstdio>
#include <filesystem>

namespace rpc = faultline::rpc;

static void serve(const std::string& control, const std::string& memory, const std::string& socket) {
  rpc::ControlClient client(control);
  auto listen = client.coordinator().listenAtRequest();
  auto placed = listen.initPlaced();
  placed.initSpec().setName("harness");
  placed.getSpec().initPolicy().setPrefault(true);
  placed.initSocket().setPath(std::filesystem::absolute(socket).c_str());
  placed.initLayers(1).set(0, std::filesystem::absolute(memory).c_str());
  auto listener = client.wait(listen.send()).getListener();
  std::printf("waiting for a target at %s\n", socket.c_str());
  std::fflush(stdout);

  // Asked for before there is a restore, so that nothing of it is missed. One target is enough.
  auto end = client.wait(listener.nextRestoreRequest().send().getRestore().waitEndedRequest().send());
  client.wait(listener.closeRequest().send());
  std::printf("%s: %s, %llu pages missing\n", rpc::nameOf(end.getReason()).c_str(), end.getText().cStr(),
              static_cast<unsigned long long>(end.getMissing()));
}

int main(int argc, char** argv) {
  if (argc != 4) return std::fprintf(stderr, "harness CONTROL MEMORY SOCKET\n"), 2;
  try {
    serve(argv[1], argv[2], argv[3]);
    return 0;
  } catch (const kj::Exception& error) {
    const rpc::Refusal refusal = rpc::refusalOf(error);
    std::fprintf(stderr, "%s: %s\n", rpc::nameOf(refusal.reason).c_str(), refusal.message.c_str());
    return 1;
  }
}
