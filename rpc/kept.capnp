# What a coordinator keeps for its successor, in memory that the supervisor holds. Internal.
@0x9f27d0c1b84e6a35;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("faultline::rpc");
using Control = import "control.capnp";

struct KeptListener {
  # Of a handshake socket.
  spec @0 :Control.ListenSpec;    # as it was asked for
  sourceName @1 :Text;            # for messages; of its top layer
}
