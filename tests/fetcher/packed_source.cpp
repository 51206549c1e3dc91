#include "tests/fetcher/packed_source.h"

#include <fcntl.h>
#include <kj/io.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <stdexcept>

namespace faultline::test {

namespace {

void pack(const std::string& input, const std::vector<std::string>& over, const std::string& output) {
  std::vector<std::string> arguments{"pack", input, output};
  for (const std::string& path : over) arguments.insert(arguments.end(), {"--over", path});
  const auto result = run(arguments);
  if (result.code != 0) throw std::runtime_error("faultline pack: " + result.err);
}

}  // namespace

PackedSource::PackedSource(const Image& image) : paths_{place_ / "packed"} {
  pack(image.path(), {}, path());
}

PackedSource::PackedSource(const Stack& stack, Lowest lowest) {
  const std::vector<std::string> plain = stack.paths();
  for (std::size_t i = 0; i < plain.size(); i++) {
    const bool last = i + 1 == plain.size();
    paths_.push_back(last && lowest == Lowest::plain ? plain[i] : place_ / ("layer-" + std::to_string(i)));
    if (paths_.back() != plain[i])
      pack(plain[i], {plain.begin() + static_cast<std::ptrdiff_t>(i) + 1, plain.end()}, paths_.back());
  }
}

std::vector<std::string> PackedSource::over() const {
  std::vector<std::string> arguments;
  for (std::size_t i = 1; i < paths_.size(); i++) arguments.insert(arguments.end(), {"--over", paths_[i]});
  return arguments;
}

void PackedSource::damage(std::uint64_t offset) const {
  const kj::AutoCloseFd file(open(path().c_str(), O_RDWR | O_CLOEXEC));
  unsigned char byte = 0;
  if (pread(file.get(), &byte, 1, static_cast<off_t>(offset)) != 1)
    throw std::runtime_error("cannot read a packed file");
  byte ^= 0xff;
  if (pwrite(file.get(), &byte, 1, static_cast<off_t>(offset)) != 1)
    throw std::runtime_error("cannot damage a packed file");
}

std::uint64_t PackedSource::fileBytes() const {
  return std::filesystem::file_size(path());
}

ServerOptions serving(const PackedSource& source, ServerOptions options) {
  options.memory = source.path();
  for (const std::string& argument : source.over()) options.more.push_back(argument);
  return options;
}

std::unique_ptr<Image> fileAsImage(const PackedSource& source) {
  const std::string content = textOf(source.path());
  auto image = std::make_unique<Image>(content.size());
  image->write(0, content.data(), content.size());
  return image;
}

FetcherFigures figuresOf(Server& server) {
  auto fetcher = server.status().getFetcher();
  FetcherFigures figures;
  figures.pid = static_cast<pid_t>(fetcher.getPid());
  figures.restarts = fetcher.getRestarts();
  figures.notKept = fetcher.getNotKept();
  figures.cachedBytes = fetcher.getCachedBytes();
  figures.evicted = fetcher.getEvicted();
  figures.savedBytes = fetcher.getSavedBytes();
  for (auto engine : fetcher.getEngines()) {
    figures.bytes += engine.getBytes();
    figures.errors += engine.getErrors();
    figures.reconnects += engine.getReconnects();
    figures.givenUp += engine.getGivenUp();
  }
  return figures;
}

void killFetcher(Server& server) {
  pid_t before = 0;
  await([&] { return (before = figuresOf(server).pid) != 0; });
  kill(before, SIGKILL);
  await([&] {
    const pid_t now = figuresOf(server).pid;
    return now != 0 && now != before;
  });
}

}  // namespace faultline::test
