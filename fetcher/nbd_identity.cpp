#include "fetcher/nbd_identity.h"

#include <algorithm>

#include "process/clock.h"

namespace faultline::fetcher {

using process::nowNs;

namespace {

constexpr std::uint64_t SAMPLING_LIMIT = 30'000'000'000;  // ns, for a server to show its samples
// Tries of a place that the server fails. At first there are many: it is a failure then.
constexpr unsigned FIRST_TRIES = 30;

}  // namespace

std::uint64_t NbdIdentity::learn(NbdConnection& connection, std::uint64_t silence) {
  std::uint64_t checksum = 0;
  NbdSampling each{.tries = FIRST_TRIES, .all = true, .silence = silence};
  samples_ = connection.samples(nowNs() + SAMPLING_LIMIT, each, checksum);
  bytes_ = connection.bytes();
  return checksum;
}

bool NbdIdentity::isShownBy(NbdConnection& connection, std::uint64_t silence) {
  if (connection.bytes() != bytes_) return false;
  const NbdSamples samples = sampled(connection, silence);
  for (std::size_t i = 0; i < samples.size(); i++)
    if (samples[i].has_value() && samples[i] != samples_[i]) return false;
  return true;
}

NbdSamples NbdIdentity::sampled(NbdConnection& connection, std::uint64_t silence) {
  std::uint64_t checksum = 0;
  NbdSamples samples;
  sampling_.silence = silence;
  try {
    samples = connection.samples(nowNs() + SAMPLING_LIMIT, sampling_, checksum);
  } catch (const NbdFailure&) {
    if (sampling_.singly && ++deaths_[sampling_.at] >= TRIES) sampling_.leaveOut.insert(sampling_.at);
    sampling_.singly = true;
    throw;
  }
  const auto read =
      std::count_if(samples.begin(), samples.end(), [](const auto& one) { return one.has_value(); });
  if (2 * static_cast<std::size_t>(read) < samples.size())
    throw NbdFailure("most samples of it cannot be read");
  return samples;
}

}  // namespace faultline::fetcher
