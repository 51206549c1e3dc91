// Real servers of objects for tests, and one that is made to lie.
#pragma once

#include <kj/io.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "tests/cli/command.h"
#include "tests/support/image.h"

namespace faultline::test {

// A port of 127.0.0.1 that is free, or was a moment ago.
unsigned freePort();
// A new connection. Throws std::runtime_error.
kj::AutoCloseFd dial(unsigned port);
// Returns when it takes connections; fails the test after some seconds.
void awaitListening(unsigned port);
// Runs a shell command to its end; fails the test where it fails. Its output.
std::string shell(const std::string& command);

// nginx, with the files of a folder.
class Nginx {
 public:
  // Why this machine has none; empty: it has.
  static std::string whyNot();

  enum class Tls { no, yes };
  // `locations`: further directives of its server. With Tls::yes it has a certificate for `name`, signed by authorities().
  explicit Nginx(const std::string& locations = "", Tls tls = Tls::no, const std::string& name = "localhost");

  unsigned port() const { return port_; }
  std::string url(const std::string& path) const;
  const Directory& folder() const { return folder_; }
  std::string authorities() const { return keys_ / "ca.pem"; }
  pid_t pid() const { return command_->pid(); }
  // A path of a file that is put in its folder.
  std::string put(const std::string& name, const std::string& content) const;
  std::string put(const std::string& name, const Image& image) const {
    return put(name, std::string(image.data(), image.bytes()));
  }
  void kill() { command_ = nullptr; }
  void start();

 private:
  const Directory folder_, keys_;
  const bool tls_;
  const unsigned port_ = freePort();
  std::unique_ptr<Command> command_;
};

// s3rver of npm: S3's protocol, fast to start; it compares neither secrets nor ETags.
class S3rver {
 public:
  static std::string whyNot();
  S3rver();  // with the bucket snap

  unsigned port() const { return port_; }
  // The file as an object of the bucket.
  void put(const std::string& path, const std::string& key) const;

 private:
  const Directory folder_;
  const unsigned port_ = freePort();
  std::unique_ptr<Command> command_;
};

// The cluster that tests/remote/ceph has started for all tests.
class CephCluster {
 public:
  // Why there is none; empty: there is.
  static std::string whyNot();

  static std::string directory();
  static std::string conf() { return directory() + "/ceph.conf"; }
  static std::string s3();  // http://127.0.0.1:PORT
  static unsigned s3Port();
  // The same objects, at a server that takes temporary keys as well.
  static std::string sts();
  static unsigned stsPort();
  static constexpr char KEY[] = "FAULTLINEKEY", SECRET[] = "faultlineSecret/1+2";
  // A command of Ceph's tools, with a limit. Its output.
  static std::string run(const std::string& command);
  // The image in the cluster, POOL/NAME, with a protected snapshot s.
  static void import(const Image& image, const std::string& name);
  // A user, whose key is where the configuration has it. `rights`: of its OSDs'.
  static void addUser(const std::string& name, const std::string& rights);
  static std::string keyring(const std::string& name) {
    return directory() + "/ceph.client." + name + ".keyring";
  }
  // A request to its S3, with its key.
  static void curl(const std::string& arguments);
  // Keys that sts() gives for a while, with a token, to read the objects of a bucket.
  struct TemporaryKeys {
    std::string id, secret, token;
  };
  static TemporaryKeys temporaryKeys(const std::string& bucket);
  static void killOsd();
  static void startOsd();
};

// That cluster is full, as its OSD says, for as long as the object.
class FullCluster {
 public:
  FullCluster();
  ~FullCluster();
  FullCluster(const FullCluster&) = delete;
};

// An image in that cluster, with a protected snapshot s.
class RbdImage {
 public:
  explicit RbdImage(const Image& image);
  std::string uri() const { return "rbd:" + name_ + "@s?conf=" + CephCluster::conf(); }

 private:
  const std::string name_;
};

// A server that says what a test has it say: one answer for each request, as it is.
class MadeServer {
 public:
  using Say = std::function<std::string(const std::string& request)>;
  explicit MadeServer(Say say);
  ~MadeServer();
  MadeServer(const MadeServer&) = delete;

  unsigned port() const { return port_; }

 private:
  void run();

  const Say say_;
  unsigned port_ = 0;
  kj::AutoCloseFd listener_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

}  // namespace faultline::test
