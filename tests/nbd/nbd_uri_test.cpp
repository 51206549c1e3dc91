// URIs of sources: what is allowed in one, and what it says.

#include "rpc/source_uri.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "rpc/named_source.h"
#include "tests/support/refusal.h"

namespace faultline::rpc {
namespace {

using ::testing::HasSubstr;

std::string whyNot(const std::string& uri) {
  return test::refusalOf<BadUri>([&] { NbdUri::parse(uri); });
}

TEST(NbdUri, OfAUnixSocket) {
  const NbdUri uri = NbdUri::parse("nbd+unix:///a%20name?socket=/run/nbd/s%3d1");
  EXPECT_FALSE(uri.tls);
  EXPECT_EQ(uri.host, "");
  EXPECT_EQ(uri.socket, "/run/nbd/s=1");
  EXPECT_EQ(uri.exportName, "a name");
}

TEST(NbdUri, OfAHost) {
  const NbdUri usual = NbdUri::parse("nbd://host.example/disk");
  EXPECT_EQ(usual.host, "host.example");
  EXPECT_EQ(usual.port, "10809");
  EXPECT_EQ(usual.exportName, "disk");
  const NbdUri six = NbdUri::parse("nbd://[fe80::1]:77/");
  EXPECT_EQ(six.host, "fe80::1");
  EXPECT_EQ(six.port, "77");
  EXPECT_EQ(six.exportName, "");
}

TEST(NbdUri, OfTls) {
  const NbdUri key = NbdUri::parse("nbds://alice@host/d?tls-psk-file=/etc/keys");
  EXPECT_TRUE(key.tls);
  EXPECT_EQ(key.user, "alice");
  EXPECT_EQ(key.keyFile, "/etc/keys");
  const NbdUri certificates = NbdUri::parse("nbds+unix:///?socket=/s&tls-certificates=/etc/pki");
  EXPECT_TRUE(certificates.tls);
  EXPECT_EQ(certificates.certificates, "/etc/pki");
}

TEST(NbdUri, EverythingElseIsRefusedWithTheWayOut) {
  const std::pair<std::string, std::string> cases[] = {
      {"nbd+ssh://host/disk", "no source of this kind"},
      {"nbd+vsock:///", "no source of this kind"},
      {"http://host/disk", "no source of this kind"},
      {"nbd://host", "no export follows the server"},
      {"nbd:///disk", "no host"},
      {"nbd://-host/disk", "no host"},
      {"nbd://[host]/disk", "no host"},
      {"nbd://[::1/disk", "no host"},
      {"nbd://host:0/disk", "port"},
      {"nbd://host:99999/disk", "port"},
      {"nbd://host:/disk", "port"},
      {"nbd://user:secret@host/disk", "password"},
      {"nbd://user@host/disk", "are of TLS"},
      {"nbd://host/disk?tls-psk-file=/k", "are of TLS"},
      {"nbd://host/disk?socket=/s", "a socket is of"},
      {"nbd://host/disk?command=id", "there is no option command"},
      {"nbd://host/di sk", "no spaces"},
      {"nbd://host/di\nsk", "no spaces"},
      {"nbd://host/disk#1", "fragment"},
      {"nbd://host/%zz", "no name"},
      {"nbd://host/%00", "no name"},
      {"nbd+unix:///", "no socket is named"},
      {"nbd+unix:///?socket=s", "absolute path"},
      {"nbd+unix:///?socket=/s&socket=/t", "makes no sense"},
      {"nbd+unix://host/?socket=/s", "a host, and a Unix socket"},
      {"nbd+unix:///?socket=/" + std::string(120, 'x'), "too long"},
      {"nbds://host/disk", "TLS wants a key or certificates"},
      {"nbds://u@host/disk?tls-psk-file=/k&tls-certificates=/c", "TLS wants a key or certificates"},
      {"nbds://host/disk?tls-psk-file=/k", "no user is named"},
      {"nbds://u@host/disk?tls-psk-file=k", "absolute path"},
      {"nbd://host/" + std::string(5000, 'x'), "longer than"},
  };
  for (const auto& [uri, why] : cases) EXPECT_THAT(whyNot(uri), HasSubstr(why)) << uri;
}

TEST(SourceUri, WhatIsMeantAsAPathIsNone) {
  for (const char* path : {"/a/b", "a", "", "://x", "/nbd://x", "a b://x"})
    EXPECT_FALSE(SourceUri::isMeant(path)) << path;
  for (const char* uri : {"nbd://x", "nbd+unix:///", "http://x", "s3://x", "rbd:x"})
    EXPECT_TRUE(SourceUri::isMeant(uri)) << uri;
}

TEST(NamedSource, IsWhatItWasMadeOf) {
  const std::string uri = "nbd://host/disk";
  const kj::AutoCloseFd named = makeNamedSource(uri);
  EXPECT_EQ(uriOf(named.get()), uri);
  EXPECT_EQ(pwrite(named.get(), "x", 1, 20), -1) << "it is sealed";
}

TEST(NamedSource, OtherFilesAreNone) {
  const kj::AutoCloseFd open(memfd_create("other", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const std::string text = "faultline-source\nnbd://host/disk";
  ASSERT_EQ(write(open.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  EXPECT_EQ(uriOf(open.get()), std::nullopt) << "it can be changed";
  const kj::AutoCloseFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(uriOf(file.get()), std::nullopt);
}

TEST(NamedSource, OneThatNamesSomethingElseIsRefused) {
  const kj::AutoCloseFd bad(memfd_create("bad", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const std::string text = "faultline-source\nnbd+ssh://host/disk";
  ASSERT_EQ(write(bad.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  ASSERT_EQ(fcntl(bad.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
  EXPECT_THROW(uriOf(bad.get()), BadUri);
  EXPECT_THROW(makeNamedSource("nbd+ssh://host/disk"), BadUri);
}

}  // namespace
}  // namespace faultline::rpc
