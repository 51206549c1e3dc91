#include "fetcher/http_object.h"

#include <spdlog/spdlog.h>
#include <strings.h>
#include <sys/socket.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "fetcher/curl_library.h"
#include "process/build.h"
#include "process/clock.h"
#include "process/plain_text.h"
#include "threads/mutex.h"

namespace faultline::fetcher {

using process::nowNs;

namespace {

constexpr std::uint64_t MS = 1'000'000, SECOND = 1000 * MS;  // ns
constexpr std::uint64_t OPEN_LIMIT = 5 * SECOND;
constexpr std::uint64_t FIRST_BACK_OFF = 20 * MS, LAST_BACK_OFF = SECOND;
constexpr std::uint64_t MOST_BYTES = 1ull << 52;  // more than any memory has
constexpr std::size_t MOST_TAG = 256;             // bytes of an ETag
// Bytes of an answer that is an error: so many are looked at; beyond the second limit the connection is given up.
constexpr std::size_t ERROR_TEXT = 2048, ERROR_BYTES = 256u << 10;

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view BLANKS = " \t\r\n";
  const std::size_t begin = text.find_first_not_of(BLANKS);
  return begin == std::string_view::npos ? std::string_view()
                                         : text.substr(begin, text.find_last_not_of(BLANKS) - begin + 1);
}

template <typename Number>
std::optional<Number> numberOf(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

// bytes FIRST-LAST/SIZE
struct ContentRange {
  std::uint64_t first, last, size;

  static std::optional<ContentRange> parse(std::string_view text) {
    constexpr std::string_view UNIT = "bytes ";
    if (text.size() <= UNIT.size() || strncasecmp(text.data(), UNIT.data(), UNIT.size()) != 0)
      return std::nullopt;
    text.remove_prefix(UNIT.size());
    const std::size_t dash = text.find('-'), slash = text.find('/');
    if (dash == std::string_view::npos || slash == std::string_view::npos || slash < dash)
      return std::nullopt;
    const auto first = numberOf<std::uint64_t>(text.substr(0, dash));
    const auto last = numberOf<std::uint64_t>(text.substr(dash + 1, slash - dash - 1));
    const auto size = numberOf<std::uint64_t>(text.substr(slash + 1));
    if (!first || !last || !size) return std::nullopt;
    return ContentRange{*first, *last, *size};
  }
};

// The name of an error of S3: <Code>NAME</Code>. Empty: the text has none.
std::string codeOf(const std::string& text) {
  constexpr std::string_view BEGIN = "<Code>", END = "</Code>";
  const std::size_t begin = text.find(BEGIN);
  const std::size_t end = begin == std::string::npos ? begin : text.find(END, begin);
  if (end == std::string::npos || end - begin > 100) return "";
  return process::plainText(text.substr(begin + BEGIN.size(), end - begin - BEGIN.size()));
}

void sleepFor(std::uint64_t ns) {
  const timespec time{static_cast<time_t>(ns / SECOND), static_cast<long>(ns % SECOND)};
  nanosleep(&time, nullptr);
}

}  // namespace

// An answer of the server.
struct HttpObject::Answer {
  CURLcode result = CURLE_OK;
  std::string failure{};  // the connection's failure, for people
  long status = 0;
  std::string tag{}, range{}, encoding{}, retryAfter{}, text{};
  std::size_t got = 0;  // bytes of the body
  bool tooMuch = false;
};

// The meaning of an Answer.
struct HttpObject::Outcome {
  int error = 0;  // 0: all is there
  std::string why{};
  bool again = false;      // another try may succeed
  std::uint64_t wait = 0;  // ns, before that, as the server wishes
};

// A connection, as long as the server keeps it. Used by one thread at a time.
class HttpObject::Handle {
 public:
  Handle(const CurlLibrary& curl, const rpc::ObjectUri& uri, const HttpWays& ways)
      : curl_(curl), ways_(ways), s3_(uri.s3), handle_(curl.easyInit()) {
    if (handle_ == nullptr) throw std::bad_alloc();
    const std::string url = uri.url();
    set(CURLOPT_URL, url.c_str());
    set(CURLOPT_PROTOCOLS_STR, uri.tls ? "https" : "http");
    set(CURLOPT_PATH_AS_IS, 1L);
    set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_FOLLOWLOCATION, 0L);
    set(CURLOPT_PROXY, "");
    set(CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
    set(CURLOPT_USERAGENT, (std::string("faultline/") + process::version()).c_str());
    set(CURLOPT_SSL_VERIFYPEER, 1L);
    set(CURLOPT_SSL_VERIFYHOST, 2L);
    set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
    if (uri.tls) {
      set(CURLOPT_CAINFO, ways.authorities.c_str());
      set(CURLOPT_CAPATH, nullptr);
    }
    set(CURLOPT_ERRORBUFFER, error_.data());
    // An address that is no name keeps it from asking name servers: the connection is made by others.
    to_ = curl_.slistAppend(nullptr, "::127.0.0.1:1");
    if (to_ == nullptr) throw std::bad_alloc();
    set(CURLOPT_CONNECT_TO, to_);
    set(CURLOPT_OPENSOCKETFUNCTION, &Handle::openSocket);
    set(CURLOPT_OPENSOCKETDATA, this);
    set(CURLOPT_SOCKOPTFUNCTION, &Handle::isConnected);
    set(CURLOPT_HEADERFUNCTION, &Handle::headerCame);
    set(CURLOPT_HEADERDATA, this);
    set(CURLOPT_WRITEFUNCTION, &Handle::bytesCame);
    set(CURLOPT_WRITEDATA, this);
    signature_ = "aws:amz:" + uri.region + ":s3";
  }
  ~Handle() {
    curl_.easyCleanup(handle_);
    curl_.slistFreeAll(to_);
  }
  Handle(const Handle&) = delete;

  // Waits until `deadline`. `tag`: empty: any.
  Answer get(std::uint64_t offset, std::span<std::byte> to, const std::string& tag, const S3Keys& keys,
             std::uint64_t deadline) {
    const std::string range = std::to_string(offset) + "-" + std::to_string(offset + to.size() - 1);
    set(CURLOPT_RANGE, range.c_str());
    Lines lines(curl_);
    if (!tag.empty()) lines.add("If-Match: " + tag);
    const bool sign = s3_ && !keys.none();
    if (sign) {
      lines.add("x-amz-content-sha256: UNSIGNED-PAYLOAD");
      if (!keys.token.empty()) lines.add("x-amz-security-token: " + keys.token);
      set(CURLOPT_USERNAME, keys.id.c_str());
      set(CURLOPT_PASSWORD, keys.secret.c_str());
    }
    set(CURLOPT_AWS_SIGV4, sign ? signature_.c_str() : nullptr);
    set(CURLOPT_HTTPHEADER, lines.list());
    const std::uint64_t now = nowNs();
    set(CURLOPT_TIMEOUT_MS, static_cast<long>(deadline > now ? (deadline - now) / MS + 1 : 1));
    answer_ = {};
    to_fill_ = to;
    error_[0] = '\0';
    failure_.clear();
    answer_.result = curl_.easyPerform(handle_);
    to_fill_ = {};
    set(CURLOPT_HTTPHEADER, nullptr);
    if (answer_.result != CURLE_OK)
      answer_.failure = process::plainText(!failure_.empty()   ? failure_
                                           : error_[0] != '\0' ? std::string(error_.data())
                                                               : curl_.easyStrerror(answer_.result));
    return std::move(answer_);
  }

 private:
  // Lines of a request.
  class Lines {
   public:
    explicit Lines(const CurlLibrary& curl) : curl_(curl) {}
    ~Lines() { curl_.slistFreeAll(list_); }
    Lines(const Lines&) = delete;
    void add(const std::string& line) {
      curl_slist* const longer = curl_.slistAppend(list_, line.c_str());
      if (longer == nullptr) throw std::bad_alloc();
      list_ = longer;
    }
    curl_slist* list() const { return list_; }

   private:
    const CurlLibrary& curl_;
    curl_slist* list_ = nullptr;
  };

  template <typename Value>
  void set(CURLoption option, Value value) {
    if (const CURLcode result = curl_.easySetopt(handle_, option, value); result != CURLE_OK)
      throw std::runtime_error(std::string("libcurl cannot do what is wanted of it: ") +
                               curl_.easyStrerror(result));
  }

  static curl_socket_t openSocket(void* self, curlsocktype /*purpose*/, curl_sockaddr* /*address*/) {
    auto& handle = *static_cast<Handle*>(self);
    try {
      return handle.ways_.connect().release();
    } catch (const std::exception& error) {
      handle.failure_ = error.what();
      return CURL_SOCKET_BAD;
    }
  }
  static int isConnected(void* /*data*/, curl_socket_t /*socket*/, curlsocktype /*purpose*/) {
    return CURL_SOCKOPT_ALREADY_CONNECTED;
  }

  static std::size_t headerCame(char* bytes, std::size_t /*one*/, std::size_t size, void* self) {
    static_cast<Handle*>(self)->header({bytes, size});
    return size;
  }
  void header(std::string_view line) {
    if (line.substr(0, 5) == "HTTP/") {  // begins an answer that goes before, or the answer itself
      answer_ = {};
      const std::size_t blank = line.find(' ');
      if (blank != std::string_view::npos)
        answer_.status = numberOf<long>(line.substr(blank + 1, 3)).value_or(0);
      return;
    }
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) return;
    const std::string name(line.substr(0, colon));
    const std::string_view value = trimmed(line.substr(colon + 1));
    if (value.size() > 2 * MOST_TAG) return;
    for (const auto& [known, to] :
         {std::pair("etag", &answer_.tag), std::pair("content-range", &answer_.range),
          std::pair("content-encoding", &answer_.encoding), std::pair("retry-after", &answer_.retryAfter)})
      if (strcasecmp(name.c_str(), known) == 0) *to = value;
  }

  static std::size_t bytesCame(char* bytes, std::size_t /*one*/, std::size_t size, void* self) {
    return static_cast<Handle*>(self)->body({bytes, size}) ? size : 0;
  }
  // False: the rest is of no use, and may have no end.
  bool body(std::string_view bytes) {
    answer_.got += bytes.size();
    if (answer_.status == 206) {
      answer_.tooMuch = bytes.size() > to_fill_.size();
      if (answer_.tooMuch) return false;
      std::memcpy(to_fill_.data(), bytes.data(), bytes.size());
      to_fill_ = to_fill_.subspan(bytes.size());
      return true;
    }
    if (answer_.status == 200) return false;
    answer_.text += bytes.substr(0, ERROR_TEXT - std::min(ERROR_TEXT, answer_.text.size()));
    return answer_.got <= ERROR_BYTES;
  }

  const CurlLibrary& curl_;
  const HttpWays& ways_;
  const bool s3_;
  CURL* const handle_;
  curl_slist* to_ = nullptr;
  std::string signature_;
  std::array<char, CURL_ERROR_SIZE> error_{};
  std::string failure_;  // why there is no connection
  Answer answer_;
  std::span<std::byte> to_fill_;
};

// Handles that are not in use, each with its connection; the keys; and what was said of the server last.
class HttpObject::Handles {
 public:
  explicit Handles(const CurlLibrary& curl) : curl_(curl) {}

  // Calls `use` with a handle that no other call uses meanwhile.
  template <typename Use>
  auto with(const rpc::ObjectUri& uri, const HttpWays& ways, Use use) {
    std::unique_ptr<Handle> handle = take();
    if (handle == nullptr) handle = std::make_unique<Handle>(curl_, uri, ways);
    auto result = use(*handle);
    const threads::Lock lock(mutex_);
    idle_.push_back(std::move(handle));
    return result;
  }

  std::optional<S3Keys> keys() {
    const threads::Lock lock(mutex_);
    return keys_;
  }
  // Whether they are others than they were.
  bool keep(const S3Keys& keys) {
    const threads::Lock lock(mutex_);
    return std::exchange(keys_, keys) != keys;
  }
  // Whether it is worth saying: the same was not said last.
  bool isNews(const std::string& why) {
    const threads::Lock lock(mutex_);
    return std::exchange(said_, why) != why;
  }

  std::atomic<bool> changed{false};  // the object is another one now
  std::atomic<bool> troubled{false};

 private:
  std::unique_ptr<Handle> take() {
    const threads::Lock lock(mutex_);
    if (idle_.empty()) return nullptr;
    std::unique_ptr<Handle> handle =
        std::move(idle_.back());  // used last: its connection is the least likely to be gone
    idle_.pop_back();
    return handle;
  }

  const CurlLibrary& curl_;
  threads::Mutex mutex_;
  std::vector<std::unique_ptr<Handle>> idle_ GUARDED_BY(mutex_);
  std::optional<S3Keys> keys_ GUARDED_BY(mutex_);
  std::string said_ GUARDED_BY(mutex_);
};

HttpObject::HttpObject(const rpc::ObjectUri& uri, HttpWays ways, std::uint64_t patience,
                       EngineCounters& counters)
    : uri_(uri),
      ways_(std::move(ways)),
      patience_(patience),
      counters_(counters),
      handles_(std::make_unique<Handles>(CurlLibrary::loaded())) {
  const std::uint64_t deadline = nowNs() + OPEN_LIMIT;
  std::uint64_t backOff = FIRST_BACK_OFF;
  std::array<std::byte, 4096> first;
  for (;;) {
    Answer answer;
    const Outcome outcome = ask(0, first, deadline, answer);
    if (outcome.error == 0) {
      bytes_ = ContentRange::parse(answer.range)->size;
      tag_ = answer.tag;
      break;
    }
    // Without a connection nothing tells that the name is right: the server is not waited for.
    const std::uint64_t wait = std::max(backOff, outcome.wait);
    if (!outcome.again || answer.status == 0 || nowNs() + wait >= deadline)
      throw std::runtime_error("source " + name() + " cannot be used: " + outcome.why);
    sleepFor(wait);
    backOff = std::min(2 * backOff, LAST_BACK_OFF);
  }
  if (bytes_ > MOST_BYTES)
    throw std::runtime_error("source " + name() + " cannot be used: it is larger than any memory");
  const std::string all = uri_.url() + "\n" + std::to_string(bytes_) + "\n" + tag_;
  version_ = XXH64(all.data(), all.size(), 0);
}

HttpObject::~HttpObject() = default;

S3Keys HttpObject::keys() const {
  if (!uri_.s3) return {};
  if (auto known = handles_->keys()) return *known;
  S3Keys keys = ways_.keys();
  handles_->keep(keys);
  return keys;
}

// Keys are replaced from time to time, and the old ones refused.
bool HttpObject::newKeys() const {
  try {
    return uri_.s3 && handles_->keep(ways_.keys());
  } catch (const std::exception& error) {
    if (handles_->isNews(error.what())) spdlog::warn("{}: {}", name(), error.what());
    return false;
  }
}

HttpObject::Outcome HttpObject::ask(std::uint64_t offset, std::span<std::byte> to, std::uint64_t deadline,
                                    Answer& answer) const {
  try {
    const S3Keys used = keys();
    answer = handles_->with(uri_, ways_,
                            [&](Handle& handle) { return handle.get(offset, to, tag_, used, deadline); });
    Outcome outcome = judge(answer, offset, to.size());
    if (outcome.error == EACCES && newKeys()) outcome.again = true;
    return outcome;
  } catch (const std::bad_alloc&) {
    return {ENOMEM, "no memory"};
  } catch (const std::exception& error) {  // no keys
    return {EACCES, error.what()};
  }
}

HttpObject::Outcome HttpObject::judge(const Answer& answer, std::uint64_t offset, std::size_t wanted) const {
  const bool cutByUs = answer.result == CURLE_WRITE_ERROR;
  if (answer.result != CURLE_OK && !(cutByUs && answer.status != 0)) return {ENOTCONN, answer.failure, true};
  const std::string code = codeOf(answer.text);
  const std::string said =
      "the server says " + std::to_string(answer.status) + (code.empty() ? "" : " (" + code + ")");
  switch (answer.status) {
    case 206:
      break;
    case 200:
      return {EPROTO, "the server gives no ranges of it: it sends all, whatever is asked for"};
    case 301:
    case 302:
    case 303:
    case 307:
    case 308:
      return {EPROTO,
              said + ": it is elsewhere, and where a server sends to is not followed; name the place itself"};
    case 401:
    case 403:
      return {EACCES, said + ": its keys do not open it, or there is none (docs/remote.md)"};
    case 404:
    case 410:
      return {ENOENT, said + ": there is no such object"};
    case 412:
      return {ESTALE, said + ": it is another object than it was"};
    case 416:
      if (tag_.empty()) return {EPROTO, said + ": it is empty"};
      return {ESTALE, said + ": it is shorter than it was"};
    case 400:
      if (code == "ExpiredToken" || code == "InvalidToken" || code == "RequestTimeTooSkewed")
        return {EACCES, said + ": its keys open it no more, or the clock here is wrong"};
      if (code != "RequestTimeout") return {EPROTO, said};
      [[fallthrough]];
    case 408:
    case 429:
    case 500:
    case 502:
    case 503:
    case 504:
      return {ENOTCONN, said, true,
              std::min<std::uint64_t>(numberOf<std::uint64_t>(answer.retryAfter).value_or(0), 3600) * SECOND};
    default:
      return {EPROTO, said + ", which is no answer to this"};
  }
  if (!answer.encoding.empty() && strcasecmp(answer.encoding.c_str(), "identity") != 0)
    return {EPROTO, "the server sends it packed by " + process::plainText(answer.encoding) +
                        ", which was not asked for"};
  if (answer.tag.size() < 3 || answer.tag.size() > MOST_TAG || answer.tag.front() != '"')
    return {EPROTO, "the server gives it no strong ETag, without which a change would go unnoticed"};
  if (!tag_.empty() && answer.tag != tag_)
    return {ESTALE, "its ETag has changed: it is another object than it was"};
  const auto range = ContentRange::parse(answer.range);
  // The size is not known before the first answer, which may have less than was wanted.
  const std::uint64_t due = range.has_value() && tag_.empty() && range->size > offset
                                ? std::min<std::uint64_t>(wanted, range->size - offset)
                                : wanted;
  if (!range.has_value() || range->first != offset || range->last != offset + due - 1 ||
      range->size <= range->last)
    return {EPROTO, "the server sends another range than was asked for"};
  if (!tag_.empty() && range->size != bytes_)
    return {ESTALE, "its size has changed: it is another object than it was"};
  if (answer.tooMuch || answer.got != due) return {EPROTO, "the server sends other than it says"};
  return {};
}

int HttpObject::read(std::uint64_t offset, std::span<std::byte> to) const {
  const std::uint64_t end = nowNs() + patience_;
  std::uint64_t backOff = FIRST_BACK_OFF;
  while (!handles_->changed) {
    // Half of the time, so that another connection may bring what this one does not.
    Answer answer;
    const Outcome outcome = ask(offset, to, std::min(end, nowNs() + patience_ / 2), answer);
    if (outcome.error == 0) {
      if (handles_->troubled.exchange(false)) {
        handles_->isNews("");
        shm::count(counters_.reconnects);
        spdlog::info("{} is read again", name());
      }
      return 0;
    }
    if (outcome.again) handles_->troubled = true;
    if (handles_->isNews(outcome.why))
      spdlog::log(outcome.again ? spdlog::level::warn : spdlog::level::err, "{}: {}", name(), outcome.why);
    if (!outcome.again) {
      if (outcome.error == ESTALE) handles_->changed = true;
      return outcome.error;
    }
    const std::uint64_t wait = outcome.error == EACCES ? 0 : std::max(backOff, outcome.wait);
    if (nowNs() + wait >= end) {
      shm::count(counters_.givenUp);
      return ENOTCONN;
    }
    sleepFor(wait);
    backOff = std::min(2 * backOff, LAST_BACK_OFF);
  }
  return ESTALE;
}

}  // namespace faultline::fetcher
