// Whether a file can lie over another one as a layer: its holes show what is below, all else is its own, zeros
// included. A layer is only as true as the map of holes that its file system tells.
#pragma once

#include <optional>
#include <string>

namespace faultline::image {

// At up to 16 places, whatever the size; or everywhere, which takes a second for a million extents.
enum class Look { parts, whole };

// Empty where the map of holes of `file` is to be believed. Otherwise the reason and the way out, in plain words that
// go on after "PATH can't be an upper layer: ".
//
// Believed is a regular file that has a hole, in whose folder an unnamed file keeps zeros that were written as data,
// and the rest as a hole, page by page (4096 bytes). If none can be made there (the folder is read-only or the disk
// full), its file system is one of ext4, xfs, btrfs and tmpfs with blocks of 4096 bytes. Refused are therefore, among
// others:
// - devices, erofs, most FUSE: they show holes as data, which would hide the layers below;
// - squashfs: it shows zeros that are data as holes;
// - blocks of less than 4096 bytes: a hole could end inside a page;
// - tmpfs with huge pages: each page that is written makes data of those around it;
// - a lower file of an overlayfs whose upper file system is another one: nothing tells what the lower one does;
// - space that was allocated and never written (fallocate; xfs, where a file grows over what was allocated behind its
//   end): ext4 and xfs show it as a hole until the page cache has it, then as data.
//
// File systems cannot tell zeros that a copy has made of holes, or holes that it has made of zeros (cp, without any
// option, of coreutils 9.1). An overlayfs makes such a copy when a lower file is changed, even in its mode. On tmpfs,
// reading a hole through a mapping, private ones included, makes data of it (read(2) does not): what serves a layer
// from there must not do that.
//
// `file`: open for reading, borrowed; its position moves. `path`: of the file, to find its folder. `look`: where space
// that was never written is looked for. Waits for the file system; in rare cases until all of the file is on the disk.
// Any thread.
std::optional<std::string> whyNotUpper(int file, const std::string& path, Look look = Look::parts);

}  // namespace faultline::image
