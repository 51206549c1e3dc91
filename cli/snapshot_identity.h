// The identity of a snapshot's memory file, found without reading it whole.
#pragma once

#include <kj/io.h>

#include <memory>
#include <string>
#include <vector>

#include "cli/working_set.h"
#include "image/fingerprint.h"
#include "image/layer_content.h"

namespace faultline::cli {

// Size, and a CRC-64 over up to 256 blocks of 4 KiB at fixed places, the first and the last among them. The
// identity costs 1 MiB of reads at most, but two files of one size that differ only between those places are
// taken for one. It decides only which pages are populated first: their bytes always come from the file that
// is served. A plain file and what it is packed to have the same identity. `memory`: a regular file, borrowed;
// its position stays. Throws as
// image::LayerContent where it can't be read.
SnapshotIdentity identityOf(int memory);

SnapshotIdentity identityOf(image::LayerContent& memory);

// The identity of a stack, plain or packed, the top layer first: that of all its layers. Of each but the lowest it is also where data
// begins behind the places that are looked at, and what is there. A single file has the identity that it has alone.
SnapshotIdentity identityOf(const std::vector<kj::AutoCloseFd>& layers);
SnapshotIdentity identityOf(const std::vector<std::unique_ptr<image::LayerContent>>& layers);

// 16 hexadecimal digits.
std::string fingerprintText(const SnapshotIdentity& identity);
using image::fingerprintText;

}  // namespace faultline::cli
