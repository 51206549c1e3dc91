#include "tests/remote/servers.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <vector>

#include "tests/support/server.h"

namespace faultline::test {

namespace {

constexpr auto LIMIT = std::chrono::seconds(20);

sockaddr_in local(unsigned port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

kj::AutoCloseFd listenAt(unsigned& port) {
  kj::AutoCloseFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = local(0);
  socklen_t length = sizeof address;
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(fd.get(), 64) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
    throw std::runtime_error("no port");
  port = ntohs(address.sin_port);
  return fd;
}

bool has(const std::string& program) {
  return system(("command -v " + program + " >/dev/null 2>&1").c_str()) == 0;
}

// Where scripts/deps puts it.
std::string s3rver() {
  const char* const home = getenv("HOME");
  return std::string(home == nullptr ? "" : home) + "/.cache/faultline/node_modules/.bin/s3rver";
}

// A shell command that goes on for as long as the object, once it listens.
std::unique_ptr<Command> startServer(const std::string& command, unsigned port) {
  auto server =
      std::make_unique<Command>(std::vector<std::string>{"-c", "exec " + command + " 2>&1"}, "/bin/bash");
  awaitListening(port);
  return server;
}

// A request that is signed with the key, "ID:SECRET".
void signedCurl(const std::string& key, const std::string& arguments) {
  shell(
      "curl -sSf --max-time 60 -H x-amz-content-sha256:UNSIGNED-PAYLOAD --aws-sigv4 aws:amz:us-east-1:s3 "
      "-u " +
      key + " " + arguments);
}

}  // namespace

unsigned freePort() {
  unsigned port = 0;
  listenAt(port);
  return port;
}

kj::AutoCloseFd dial(unsigned port) {
  kj::AutoCloseFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = local(port);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    throw std::runtime_error(std::string("port ") + std::to_string(port) + ": " + std::strerror(errno));
  return fd;
}

void awaitListening(unsigned port) {
  const auto end = std::chrono::steady_clock::now() + LIMIT;
  while (std::chrono::steady_clock::now() < end) {
    try {
      dial(port);
      return;
    } catch (const std::runtime_error&) {
      poll(nullptr, 0, 10);
    }
  }
  throw std::runtime_error("nothing listens at port " + std::to_string(port));
}

std::string shell(const std::string& command) {
  Command shell({"-c", command}, "/bin/bash");
  const Command::Result result = shell.finish();
  EXPECT_EQ(result.code, 0) << command << "\n" << result.out << result.err;
  return result.out;
}

std::string Nginx::whyNot() {
  if (!has("nginx")) return "nginx is not installed (./scripts/deps --remote)";
  return has("openssl") ? "" : "openssl is not installed (./scripts/deps --remote)";
}

Nginx::Nginx(const std::string& locations, Tls tls, const std::string& name) : tls_(tls == Tls::yes) {
  if (tls_)
    shell("cd " + keys_.path() +
          " && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out "
          "ca.pem -days 2"
          " -subj /CN=test-authority -addext basicConstraints=critical,CA:TRUE -addext "
          "keyUsage=critical,keyCertSign 2>&1"
          " && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.csr "
          "-subj /CN=" +
          name + " 2>&1 && printf 'subjectAltName=DNS:" + name +
          "' > ext &&"
          " openssl x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext "
          "-out cert.pem 2>&1");
  // Its files are of the test's user, whoever that is.
  std::ofstream(keys_ / "nginx.conf")
      << "daemon off; master_process off; pid " << keys_.path() << "/pid; error_log " << keys_.path()
      << "/error.log;\n"
      << "events {}\nhttp { access_log " << keys_.path() << "/access.log; client_body_temp_path "
      << keys_.path() << "/b; proxy_temp_path " << keys_.path() << "/p; fastcgi_temp_path " << keys_.path()
      << "/f; uwsgi_temp_path " << keys_.path() << "/u; scgi_temp_path " << keys_.path()
      << "/s; keepalive_requests 100000;\n"
      << "server { listen 127.0.0.1:" << port_ << (tls_ ? " ssl" : "") << "; root " << folder_.path() << ";\n"
      << (tls_ ? "ssl_certificate cert.pem; ssl_certificate_key key.pem;\n" : "") << locations << " } }\n";
  start();
}

void Nginx::start() {
  command_ = startServer("nginx -p " + keys_.path() + " -c " + keys_ / "nginx.conf", port_);
}

std::string Nginx::url(const std::string& path) const {
  return (tls_ ? "https://localhost:" : "http://localhost:") + std::to_string(port_) + path;
}

std::string Nginx::put(const std::string& name, const std::string& content) const {
  const std::string fresh = folder_ / (name + ".new");
  std::ofstream(fresh, std::ios::binary) << content;
  std::filesystem::rename(fresh, folder_ / name);
  return folder_ / name;
}

std::string S3rver::whyNot() {
  if (access(s3rver().c_str(), X_OK) != 0) return "s3rver is not installed (./scripts/deps --remote)";
  return has("curl") ? "" : "curl is not installed (./scripts/deps)";
}

S3rver::S3rver() {
  command_ = startServer(s3rver() + " -d " + folder_.path() + " -a 127.0.0.1 -p " + std::to_string(port_) +
                             " --silent --configure-bucket snap",
                         port_);
}

void S3rver::put(const std::string& path, const std::string& key) const {
  signedCurl("S3RVER:S3RVER", "-T " + path + " http://127.0.0.1:" + std::to_string(port_) + "/snap/" + key);
}

std::string CephCluster::directory() {
  const char* const directory = getenv("FAULTLINE_CEPH");
  return directory == nullptr ? "/nonexistent" : directory;
}

std::string CephCluster::whyNot() {
  if (getenv("FAULTLINE_CEPH") == nullptr)
    return "no cluster was started (ctest starts one; or tests/remote/ceph, and FAULTLINE_CEPH)";
  if (const std::string why = textOf(directory() + "/why-not"); !why.empty()) return why;
  return access((directory() + "/ready").c_str(), F_OK) == 0 ? "" : "the cluster is not up";
}

namespace {

// As tests/remote/ceph says it.
std::string placeOf(const std::string& server) {
  const std::string all = textOf(CephCluster::directory() + "/env"), name = "\n" + server + "=";
  const std::size_t begin = all.find(name) + name.size();
  return all.substr(begin, all.find('\n', begin) - begin);
}

unsigned portOf(const std::string& place) {
  return static_cast<unsigned>(std::stoul(place.substr(place.rfind(':') + 1)));
}

}  // namespace

std::string CephCluster::s3() {
  return placeOf("S3");
}

unsigned CephCluster::s3Port() {
  return portOf(s3());
}

std::string CephCluster::sts() {
  return placeOf("STS");
}

unsigned CephCluster::stsPort() {
  return portOf(sts());
}

std::string CephCluster::run(const std::string& command) {
  return shell("export CEPH_CONF=" + conf() + "; timeout 60 " + command);
}

void CephCluster::import(const Image& image, const std::string& name) {
  run("rbd import --no-progress " + image.path() + " " + name);
  run("rbd snap create --no-progress " + name + "@s");
  run("rbd snap protect " + name + "@s");
}

void CephCluster::addUser(const std::string& name, const std::string& rights) {
  run("ceph auth get-or-create client." + name + " mon 'profile rbd-read-only' osd '" + rights + "' -o " +
      keyring(name));
}

void CephCluster::curl(const std::string& arguments) {
  signedCurl(std::string(KEY) + ":" + SECRET, arguments);
}

CephCluster::TemporaryKeys CephCluster::temporaryKeys(const std::string& bucket) {
  const std::string role = "of-" + bucket, admin = "radosgw-admin role";
  run("bash -c \"" + admin + " get --role-name=" + role + " >/dev/null 2>&1\" || { " + admin +
      " create --role-name=" + role + R"( --assume-role-policy-doc='{"Version":"2012-10-17","Statement":[{)" +
      R"("Effect":"Allow","Principal":{"AWS":["arn:aws:iam:::user/fl"]},"Action":["sts:AssumeRole"]}]}')" +
      " && " + admin + "-policy put --role-name=" + role +
      R"( --policy-name=read --policy-doc='{"Version":"2012-10-17","Statement":[{"Effect":"Allow",)" +
      R"("Action":["s3:GetObject"],"Resource":"arn:aws:s3:::)" + bucket + R"(/*"}]}'; })");
  const std::string said = shell(
      "body='Action=AssumeRole&RoleArn=arn:aws:iam:::role/" + role +
      "&RoleSessionName=faultline&DurationSeconds=900&Version=2011-06-15'; curl -sSf --max-time 60 -u " +
      KEY + ":" + SECRET +
      " --aws-sigv4 aws:amz:us-east-1:sts -H \"x-amz-content-sha256: $(printf %s \"$body\" | sha256sum | "
      "cut -d' ' -f1)\" -d \"$body\" " +
      sts());
  const auto field = [&](const std::string& name) {
    const std::size_t begin = said.find("<" + name + ">") + name.size() + 2;
    return said.substr(begin, said.find("</" + name + ">") - begin);
  };
  return {field("AccessKeyId"), field("SecretAccessKey"), field("SessionToken")};
}

FullCluster::FullCluster() {
  CephCluster::run(
      "bash -c 'ceph osd set-nearfull-ratio 0.00001; ceph osd set-backfillfull-ratio 0.00002; "
      "ceph osd set-full-ratio 0.00003; until ceph health detail | grep -q \"osd.0 is full\"; do "
      "sleep 0.1; done'");
}

FullCluster::~FullCluster() {
  CephCluster::run(
      "bash -c 'ceph osd set-full-ratio 0.95; ceph osd set-backfillfull-ratio 0.9; "
      "ceph osd set-nearfull-ratio 0.85; while ceph health detail | grep -q \"osd.0 is full\"; do "
      "sleep 0.1; done'");
}

void CephCluster::killOsd() {
  shell(std::string(FAULTLINE_REMOTE_TESTS) + "/ceph osd-kill " + directory());
}

void CephCluster::startOsd() {
  shell(std::string(FAULTLINE_REMOTE_TESTS) + "/ceph osd-start " + directory());
}

namespace {

std::string freshName() {
  static unsigned count = 0;
  return "p/image-" + std::to_string(getpid()) + "-" + std::to_string(count++);
}

}  // namespace

RbdImage::RbdImage(const Image& image) : name_(freshName()) {
  CephCluster::import(image, name_);
}

MadeServer::MadeServer(Say say)
    : say_(std::move(say)), listener_(listenAt(port_)), thread_([this] { run(); }) {}

MadeServer::~MadeServer() {
  ended_ = true;
  shutdown(listener_.get(), SHUT_RDWR);
  thread_.join();
}

void MadeServer::run() {
  while (!ended_) {
    const kj::AutoCloseFd peer(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (peer.get() < 0) return;
    std::string request;
    char bytes[4096];
    while (request.find("\r\n\r\n") == std::string::npos) {
      const ssize_t got = ::read(peer.get(), bytes, sizeof bytes);
      if (got <= 0) break;
      request.append(bytes, static_cast<std::size_t>(got));
    }
    const std::string answer = say_(request);
    [[maybe_unused]] const auto sent = send(peer.get(), answer.data(), answer.size(), MSG_NOSIGNAL);
    shutdown(peer.get(), SHUT_WR);
    // What is unread would have the kernel reset the connection, and the answer be lost.
    while (::read(peer.get(), bytes, sizeof bytes) > 0) continue;
  }
}

}  // namespace faultline::test
