# What a coordinator keeps for its successor, in memory that the supervisor holds. Internal.
@0x9f27d0c1b84e6a35;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("faultline::rpc");
using Control = import "control.capnp";

struct KeptLayers {
  # Of a restore whose source has several files, the top one first.
  layers @0 :List(Layer);
  struct Layer {
    name @0 :Text;         # for messages
    # What it was when the restore began (process/file_identity.h).
    device @1 :UInt64;
    inode @2 :UInt64;
    bytes @3 :UInt64;
    modified @4 :Int64;    # ns since 1970
    changed @5 :Int64;     # ns since 1970
    links @6 :UInt64;
  }
}

struct KeptListener {
  # Of a handshake socket.
  spec @0 :Control.ListenSpec;    # as it was asked for
  sourceName @1 :Text;            # for messages; of its top layer
  layers @2 :List(Text);          # the names of all its layers, top first; empty: sourceName is the only one
}
