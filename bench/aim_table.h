// Base of the groups of lines of the table of aims.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bench/aims.h"
#include "bench/figures.h"
#include "bench/handler.h"
#include "bench/image.h"

namespace faultline::bench {

inline constexpr std::uint64_t MIB = 1u << 20, GIB = 1u << 30;

inline double micro(std::uint64_t ns) {
  return static_cast<double>(ns) * 1e-3;
}

using Aim = Verdict::Aim;

// The image of the measurements, and the verdicts so far.
class AimTable {
 public:
  explicit AimTable(const AimOptions& options);

  const std::vector<Verdict>& verdicts() const { return verdicts_; }
  const BenchImage& image() const { return image_; }
  const std::string& directory() const { return options_.directory; }
  // A build to compare with; empty: there is none.
  const std::string& before() const { return options_.before; }
  unsigned rounds() const { return options_.rounds; }
  bool quick() const { return options_.quick; }

  // Whether the line is asked for.
  bool wanted(const std::string& what) const { return what.find(options_.only) != std::string::npos; }
  // Prints it as well.
  void add(Verdict verdict);
  // Says on stderr why a line is missing.
  static void leaveOut(const std::string& what, const std::string& why);

  // Single faults: as much of the image as gives a figure.
  Workload demand(Placement placement, unsigned threads) const;
  // A run with a warm source.
  Measured measure(const Workload& workload, const Backing& backing) const;
  double p50(const Workload& workload, const Backing& backing) const;  // us
  double perSecond(const Workload& workload, const Backing& backing) const;

  std::unique_ptr<Handler> floorAt(Placement placement) const;
  std::unique_ptr<Handler> around() const;
  std::unique_ptr<Faultline> faultline(const FaultlineOptions& options) const;

 private:
  const AimOptions options_;
  const BenchImage image_;
  std::vector<Verdict> verdicts_;
};

// The groups that are not in aims.cpp.
void patternAims(
    AimTable& table);  // lazily, by pattern, beside handlers that copy 64 KiB, and the mapped file
void populationAims(AimTable& table);  // with the background population
void holeAims(AimTable& table);        // holes of the source
void layerAims(AimTable& table);       // stacks of layers
void packedAims(AimTable& table);      // packed images, beside zstd itself
void remoteAims(AimTable& table);      // memory that lies in Ceph, in S3, or on a web server
void nbdAims(AimTable& table);         // memory that an NBD server has, beside libnbd itself
void slowAims(AimTable& table);        // sources whose every read takes long
void beforeAims(AimTable& table);      // one flat file, beside the build before

}  // namespace faultline::bench
