# What a coordinator keeps for its successor, in memory that the supervisor holds. Internal.
@0x9f27d0c1b84e6a35;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("faultline::rpc");
using Control = import "control.capnp";

struct KeptLayers {
  # Of a restore whose source has several files, or one that is fetched.
  layers @0 :List(KeptLayer);     # the top one first
}

struct KeptLayer {
  # A file, as it was when the restore began (process/file_identity.h).
  name @0 :Text;                  # for messages
  device @1 :UInt64;              # of its file system
  inode @2 :UInt64;               # within that
  bytes @3 :UInt64;               # its size
  modified @4 :Int64;             # mtime, ns since 1970
  changed @5 :Int64;              # ctime, ns since 1970
  links @6 :UInt64;               # names that it has
  fetched @7 :Bool;               # it has a cache, which is kept as well
}

struct KeptListener {
  # Of a handshake socket.
  spec @0 :Control.ListenSpec;    # as it was asked for
  sourceName @1 :Text;            # for messages; of its top layer
  layers @2 :List(Text);          # the names of all its layers, top first; empty: sourceName is the only one
  path @3 :Text;                  # of its socket's file, where the server made that; it goes with the listener
  device @4 :UInt64;              # of the file system that has the file
  inode @5 :UInt64;               # the file's, within that
  packed @6 :List(Bool);          # which of them are packed images; shorter: the others are not
}
