#include "cli/snapshot_identity.h"

#include <optional>

#include "cli/packed_file.h"
#include "cli/served_source.h"
#include "image/fingerprint.h"
#include "packed/packed_content.h"
#include "process/duplicate.h"
#include "rpc/named_source.h"

namespace faultline::cli {

SnapshotIdentity identityOf(image::LayerContent& memory) {
  return {memory.bytes(), image::fingerprintOf(memory)};
}

SnapshotIdentity identityOf(const std::vector<std::unique_ptr<image::LayerContent>>& layers) {
  return {layers.back()->bytes(), image::fingerprintOf(layers)};
}

SnapshotIdentity identityOf(int memory) {
  image::PlainContent content(memory);
  return identityOf(content);
}

SnapshotIdentity identityOf(const std::vector<kj::AutoCloseFd>& layers) {
  std::vector<std::unique_ptr<image::LayerContent>> contents;
  contents.reserve(layers.size());
  std::vector<std::unique_ptr<PackedFile>> packedFiles;
  std::optional<SnapshotIdentity> base;
  for (const kj::AutoCloseFd& layer : layers) {
    if (const auto uri = rpc::uriOf(layer.get())) {
      base = askServer(layer.get(), *uri);  // of the lowest alone
    } else if (isPacked(layer.get(), "a layer")) {
      packedFiles.push_back(
          std::make_unique<PackedFile>(packedFile(process::duplicate(layer.get()), "a layer")));
      contents.push_back(std::make_unique<packed::PackedContent>(packedFiles.back()->image));
    } else {
      contents.push_back(std::make_unique<image::PlainContent>(layer.get()));
    }
  }
  if (!base.has_value()) return identityOf(contents);
  return {base->bytes, image::fingerprintOver(base->fingerprint, contents)};
}

std::string fingerprintText(const SnapshotIdentity& identity) {
  return image::fingerprintText(identity.fingerprint);
}

}  // namespace faultline::cli
