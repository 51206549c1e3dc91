# A file descriptor on its way over RPC.
@0xa8e2c1f05b9d7346;

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("faultline::rpc");

interface Fd {
  # A capability with nothing but an fd attached.
}
