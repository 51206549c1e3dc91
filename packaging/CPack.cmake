# The Debian package: cpack -G DEB in a build that was configured with -DCMAKE_INSTALL_PREFIX=/usr (scripts/package).
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME faultline)
set(CPACK_PACKAGE_CONTACT "${FAULTLINE_CONTACT}")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "lazy restore of snapshot memory through userfaultfd")
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"A restored micro-VM or process starts with empty memory, and each page is
fetched when it is first touched. The page server keeps three promises while
the target gives memory back and while its own processes die: no snapshot byte
comes back to a page that was given up, every fault is answered, and a page
that cannot be had is an error and never wrong bytes.
.
It serves Firecracker as it is, QEMU by a preloaded library, and others by a C
library.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_COMPRESSION_TYPE xz)
# Loaded when such a server is asked: a host without such sources needs none.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "libnbd0")
# As those, for fewer hosts; for the C++ library; and for the clients of the JSON door.
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "libcurl4, librbd1, libcapnp-dev, python3, nodejs, curl")
# Reloads systemd's units. Starts and restarts nothing: when a new build takes over is the operator's to say
# (faultline upgrade), and until then a running service stays with the one that it was started from.
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA
  ${CMAKE_CURRENT_SOURCE_DIR}/debian/postinst ${CMAKE_CURRENT_SOURCE_DIR}/debian/prerm
  ${CMAKE_CURRENT_SOURCE_DIR}/debian/postrm ${CMAKE_CURRENT_SOURCE_DIR}/debian/conffiles
  ${CMAKE_CURRENT_SOURCE_DIR}/debian/triggers)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_SOURCE_DIR}/finish.cmake)
include(CPack)
