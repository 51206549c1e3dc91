#include "tests/nbd/authority.h"

#include <filesystem>

#include "tests/nbd/nbd_server.h"

namespace faultline::test {

Authority::Authority(const std::string& name) {
  makeKey(name, own_ / "ca-key.pem", {"-x509", "-days", "2", "-out", own_ / "ca-cert.pem"});
}

void Authority::sign(const Directory& folder, const Subject& subject) const {
  const std::string request = folder / "request.pem", &who = subject.who;
  std::filesystem::copy_file(own_ / "ca-cert.pem", folder / "ca-cert.pem");
  std::vector<std::string> more{"-out", request};
  if (!subject.address.empty()) more.insert(more.end(), {"-addext", "subjectAltName=IP:" + subject.address});
  makeKey(who, folder / (who + "-key.pem"), more);
  runTool({"openssl", "x509", "-req", "-in", request, "-copy_extensions", "copyall", "-CA",
           own_ / "ca-cert.pem", "-CAkey", own_ / "ca-key.pem", "-set_serial", "1", "-days", subject.days,
           "-out", folder / (who + "-cert.pem")});
}

void Authority::makeKey(const std::string& name, const std::string& key,
                        const std::vector<std::string>& more) {
  std::vector<std::string> command{
      "openssl", "req",     "-newkey", "ec",    "-pkeyopt",   "ec_paramgen_curve:prime256v1",
      "-nodes",  "-keyout", key,       "-subj", "/CN=" + name};
  command.insert(command.end(), more.begin(), more.end());
  runTool(command);
}

}  // namespace faultline::test
