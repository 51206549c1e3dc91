#include "cli/snapshot_identity.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <optional>
#include <span>
#include <utility>

#include "cli/layer_content.h"
#include "cli/packed_file.h"
#include "cli/served_source.h"
#include "image/sampled_checksum.h"
#include "process/duplicate.h"
#include "rpc/named_source.h"

namespace faultline::cli {

namespace {

using image::SampledChecksum;

void addBlock(SampledChecksum& sum, LayerContent& layer, std::uint64_t offset) {
  std::array<std::byte, image::SAMPLE_BYTES> room;
  const std::span<std::byte> data =
      std::span(room).first(std::min(image::SAMPLE_BYTES, layer.bytes() - offset));
  layer.read(offset, data);
  sum.add(data);
}

// Mostly holes: what is looked at is the data behind each place.
void addUpper(SampledChecksum& sum, LayerContent& layer) {
  std::uint64_t before = ~0ull;
  for (const std::uint64_t place : image::samplePlaces(layer.bytes())) {
    const std::uint64_t offset = layer.dataFrom(place);
    sum.add(offset);
    if (offset < layer.bytes() && std::exchange(before, offset) != offset) addBlock(sum, layer, offset);
  }
}

// `upper`: the layers over the base, the top one first.
SnapshotIdentity identityOver(const SnapshotIdentity& base,
                              std::span<const std::unique_ptr<LayerContent>> upper) {
  if (upper.empty()) return base;
  SampledChecksum sum;
  sum.add(base.fingerprint);
  for (std::size_t i = upper.size(); i-- > 0;) addUpper(sum, *upper[i]);
  return {base.bytes, sum.value()};
}

}  // namespace

SnapshotIdentity identityOf(LayerContent& memory) {
  SampledChecksum sum;
  for (const std::uint64_t place : image::samplePlaces(memory.bytes())) addBlock(sum, memory, place);
  return {memory.bytes(), sum.value()};
}

SnapshotIdentity identityOf(const std::vector<std::unique_ptr<LayerContent>>& layers) {
  return identityOver(identityOf(*layers.back()), std::span(layers).first(layers.size() - 1));
}

SnapshotIdentity identityOf(int memory) {
  PlainContent content(memory);
  return identityOf(content);
}

SnapshotIdentity identityOf(const std::vector<kj::AutoCloseFd>& layers) {
  std::vector<std::unique_ptr<LayerContent>> contents;
  contents.reserve(layers.size());
  std::vector<std::unique_ptr<PackedFile>> packed;
  std::optional<SnapshotIdentity> base;
  for (const kj::AutoCloseFd& layer : layers) {
    if (const auto uri = rpc::uriOf(layer.get())) {
      base = askServer(layer.get(), *uri);  // of the lowest alone
    } else if (isPacked(layer.get(), "a layer")) {
      packed.push_back(std::make_unique<PackedFile>(packedFile(process::duplicate(layer.get()), "a layer")));
      contents.push_back(std::make_unique<PackedContent>(packed.back()->image));
    } else {
      contents.push_back(std::make_unique<PlainContent>(layer.get()));
    }
  }
  return base.has_value() ? identityOver(*base, contents) : identityOf(contents);
}

std::string fingerprintText(const SnapshotIdentity& identity) {
  return fingerprintText(identity.fingerprint);
}

std::string fingerprintText(std::uint64_t fingerprint) {
  char text[20];
  snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(fingerprint));
  return text;
}

}  // namespace faultline::cli
