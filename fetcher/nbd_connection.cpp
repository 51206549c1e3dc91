#include "fetcher/nbd_connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <vector>

#include "image/sampled_checksum.h"
#include "process/clock.h"
#include "process/plain_text.h"

namespace faultline::fetcher {

namespace {

constexpr std::uint64_t MOST_BYTES = 1ull << 52;  // more than any memory has
constexpr std::size_t SAMPLES_AT_ONCE = 16;
constexpr std::uint64_t SAMPLE_AGAIN = 20'000'000;  // ns, after the server has failed one
constexpr std::uint64_t STATUS_BYTES = 1ull
                                       << 31;  // at most, of a question about blocks: lengths have 32 bits
constexpr std::uint32_t ZERO = 2;              // NBD_STATE_ZERO; a hole alone may read as anything

int readOver(void* data, int* error) {
  auto& read = *static_cast<NbdRead*>(data);
  read.over = true;
  read.error = *error;
  return 1;
}

// A question about blocks, and what has come of it.
struct Status {
  std::uint64_t next;  // the first byte that nothing is known of
  std::vector<Range> zeros{};
  bool over = false;
  int error = 0;
};

int statusCame(void* data, const char* context, std::uint64_t offset, std::uint32_t* entries,
               std::size_t count, int* /*error*/) {
  auto& status = *static_cast<Status*>(data);
  if (std::strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 || offset != status.next) return 0;
  for (std::size_t i = 0; i + 1 < count; i += 2) {
    const std::uint64_t end = status.next + entries[i];
    if ((entries[i + 1] & ZERO) != 0) status.zeros.push_back({status.next, end});
    status.next = end;
  }
  return 0;
}

int statusOver(void* data, int* error) {
  auto& status = *static_cast<Status*>(data);
  status.over = true;
  status.error = *error;
  return 1;
}

}  // namespace

void NbdConnection::require(int result, const char* what) const {
  if (result < 0) throw NbdFailure(std::string(what) + ": " + error());
}

std::string NbdConnection::error() const {
  const char* text = library_.getError();
  // The text may have what the server said.
  return text == nullptr ? "no reason is known" : process::plainText(text);
}

NbdConnection::NbdConnection(const NbdLibrary& library, const rpc::NbdUri& uri, kj::AutoCloseFd socket,
                             std::uint64_t deadline)
    : library_(library), handle_(library.create()) {
  if (handle_ == nullptr) throw NbdFailure("libnbd: " + error());
  std::optional<TlsHandshake> tls;
  try {
    require(library_.setExportName(handle_, uri.exportName.c_str()), "its name");
    require(library_.addMetaContext(handle_, LIBNBD_CONTEXT_BASE_ALLOCATION), "block status");
    // A read that does not bring all is an error here: its memory need not be zeroed before.
    require(library_.setPreadInitialize(handle_, false), "reads");
    if (uri.tls) {
      require(library_.setTls(handle_, LIBNBD_TLS_REQUIRE), "TLS");
      require(library_.setTlsVerifyPeer(handle_, true), "TLS");
      if (!uri.user.empty()) require(library_.setTlsUsername(handle_, uri.user.c_str()), "TLS");
      if (!uri.keyFile.empty()) require(library_.setTlsPskFile(handle_, uri.keyFile.c_str()), "TLS");
      if (!uri.certificates.empty())
        require(library_.setTlsCertificates(handle_, uri.certificates.c_str()), "TLS");
    }
    if (uri.tls)
      tls.emplace(
          deadline,
          uri.certificates.empty() ? TlsHandshake::Certificate::ignored : TlsHandshake::Certificate::checked,
          uri.host);
    connect(kj::mv(socket), deadline, tls, uri);
    const std::int64_t size = library_.getSize(handle_);
    if (size < 0) throw NbdFailure("its size: " + error());
    if (size == 0) throw NbdFailure("it is empty");
    if (static_cast<std::uint64_t>(size) > MOST_BYTES) throw NbdFailure("it is larger than any memory");
    if (const std::int64_t least = library_.getBlockSize(handle_, LIBNBD_SIZE_MINIMUM);
        least > static_cast<std::int64_t>(image::SAMPLE_BYTES))
      throw NbdFailure("its blocks are larger than a page");
    bytes_ = static_cast<std::uint64_t>(size);
    multiple_ = library_.canMultiConn(handle_) == 1;
    tellsZeros_ = library_.canMetaContext(handle_, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
  } catch (...) {
    library_.close(handle_);
    throw;
  }
}

// Waits until the connection is ready, and by TLS the server known to be the one that is meant.
void NbdConnection::connect(kj::AutoCloseFd socket, std::uint64_t deadline,
                            const std::optional<TlsHandshake>& tls, const rpc::NbdUri& uri) {
  try {
    require(library_.aioConnectSocket(handle_, socket.release()), "the connection");  // libnbd has it now
    waitOn(deadline, [&] { return library_.aioIsReady(handle_) == 1; });
  } catch (const NbdFailure& failure) {
    if (!tls.has_value()) throw;
    if (tls->late()) throw NbdFailure("it does not answer");
    if (!tls->why().empty()) throw NbdFailure("the server's certificate: " + tls->why());
    if (!tls->passed() || uri.certificates.empty()) throw;
    throw NbdFailure(
        std::string(failure.what()) +
        "; if it wants a certificate of its clients, that is client-cert.pem with client-key.pem in " +
        uri.certificates);
  }
  if (tls.has_value() && !tls->passed()) throw NbdFailure("no TLS handshake was made");
}

NbdConnection::~NbdConnection() {
  library_.close(handle_);
}

bool NbdConnection::begin(NbdRead& read) {
  read.over = false;
  read.error = 0;
  const nbd_completion_callback done{readOver, &read, nullptr};
  if (library_.aioPread(handle_, read.to, read.range.size(), read.range.begin, done, 0) >= 0) return true;
  const int error = library_.getErrno();
  if (!dead()) {
    read.over = true;
    read.error = error != 0 ? error : EIO;
  }
  return false;
}

pollfd NbdConnection::wish() const {
  const unsigned direction = library_.aioGetDirection(handle_);
  short events = 0;
  if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) events |= POLLIN;
  if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) events |= POLLOUT;
  return {library_.aioGetFd(handle_), events, 0};
}

void NbdConnection::handle(short events) {
  // Data that is left to be read comes first; a connection that is gone shows as it is read.
  const unsigned direction = library_.aioGetDirection(handle_);
  if ((events & (POLLIN | POLLHUP | POLLERR)) != 0 && (direction & LIBNBD_AIO_DIRECTION_READ) != 0)
    library_.aioNotifyRead(handle_);
  else if ((events & (POLLOUT | POLLHUP | POLLERR)) != 0 && (direction & LIBNBD_AIO_DIRECTION_WRITE) != 0)
    library_.aioNotifyWrite(handle_);
}

bool NbdConnection::dead() const {
  return library_.aioIsDead(handle_) == 1 || library_.aioIsClosed(handle_) == 1;
}

void NbdConnection::waitOn(std::uint64_t deadline, const std::function<bool()>& over) {
  while (!over()) {
    if (dead()) throw NbdFailure(error());
    const std::uint64_t now = process::nowNs();
    if (now >= deadline) throw NbdFailure("it does not answer");
    pollfd waiting = wish();
    const int ready = poll(&waiting, 1, static_cast<int>((deadline - now) / 1'000'000 + 1));
    if (ready > 0) handle(waiting.revents);
    if (ready < 0 && errno != EINTR) throw NbdFailure(std::strerror(errno));
  }
}

NbdSamples NbdConnection::samples(std::uint64_t deadline, NbdSampling& how, std::uint64_t& checksum) {
  struct Sample {
    NbdRead read;
    std::size_t number;
    unsigned tries = 0;
  };
  const std::vector<std::uint64_t> places = image::samplePlaces(bytes_);
  std::vector<std::byte> blocks(places.size() * image::SAMPLE_BYTES);
  std::deque<Sample> samples;
  std::deque<Sample*> asked, waiting;
  for (std::size_t i = 0; i < places.size(); i++) {
    const Range range{places[i], std::min(places[i] + image::SAMPLE_BYTES, bytes_)};
    samples.push_back({{range, blocks.data() + i * image::SAMPLE_BYTES}, i});
    if (how.leaveOut.count(i) == 0) waiting.push_back(&samples.back());
  }
  NbdSamples result(places.size());
  const std::size_t atOnce = how.singly ? 1 : SAMPLES_AT_ONCE;
  std::uint64_t next = 0;  // when one may be asked
  while (!waiting.empty() || !asked.empty()) {
    while (!waiting.empty() && asked.size() < atOnce && process::nowNs() >= next) {
      how.at = waiting.front()->number;
      if (!begin(waiting.front()->read) && dead()) throw NbdFailure(error());
      asked.push_back(waiting.front());
      waiting.pop_front();
    }
    if (asked.empty()) {
      const std::uint64_t now = process::nowNs();
      if (next > now) poll(nullptr, 0, static_cast<int>((next - now) / 1'000'000 + 1));
      continue;
    }
    waitOn(std::min(deadline, process::nowNs() + how.silence), [&] { return asked.front()->read.over; });
    Sample& sample = *asked.front();
    asked.pop_front();
    const NbdRead& read = sample.read;
    if (read.error != 0 && dead()) throw NbdFailure(std::strerror(read.error));
    if (read.error == 0) {
      image::SampledChecksum sum;
      sum.add(std::span(read.to, read.range.size()));
      result[sample.number] = sum.value();
    } else if (++sample.tries < how.tries) {
      waiting.push_back(&sample);
      next = process::nowNs() + SAMPLE_AGAIN;
    } else if (how.all) {
      throw NbdFailure("offset " + std::to_string(read.range.begin) +
                       " of it cannot be read: " + std::strerror(read.error));
    }
  }
  image::SampledChecksum sum;
  for (const Sample& sample : samples) sum.add(std::span(sample.read.to, sample.read.range.size()));
  checksum = sum.value();
  return result;
}

bool NbdConnection::zeros(std::uint64_t deadline, const std::function<void(Range)>& use) {
  if (!tellsZeros_) return true;
  Range last{0, 0};
  for (std::uint64_t from = 0; from < bytes_;) {
    const std::uint64_t end = std::min(from + STATUS_BYTES, bytes_);
    Status status{from};
    const nbd_extent_callback came{statusCame, &status, nullptr};
    const nbd_completion_callback over{statusOver, &status, nullptr};
    if (library_.aioBlockStatus(handle_, end - from, from, came, over, 0) < 0) return false;
    waitOn(deadline, [&] { return status.over; });
    // A server answers as far as it likes, and at least something.
    if (status.error != 0 || status.next <= from) return false;
    for (const Range& zero : status.zeros) {
      const Range known{zero.begin, std::min(zero.end, bytes_)};
      if (known.begin >= known.end) continue;
      if (known.begin == last.end) {
        last.end = known.end;
        continue;
      }
      if (last.end > last.begin) use(last);
      last = known;
    }
    from = status.next;
  }
  if (last.end > last.begin) use(last);
  return true;
}

}  // namespace faultline::fetcher
