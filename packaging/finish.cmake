# Run by CPack over what is to be packed (CPACK_PRE_BUILD_SCRIPTS): documents as Debian wants them, and what only the package
# has.
find_program(GZIP gzip REQUIRED)
set(root ${CPACK_TEMPORARY_DIRECTORY})
file(GLOB_RECURSE pages ${root}/usr/share/man/*.[178])
foreach(page ${pages} ${root}/usr/share/doc/faultline/changelog)
  execute_process(COMMAND ${GZIP} -9 --no-name --force ${page} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
file(MAKE_DIRECTORY ${root}/etc/default ${root}/usr/share/lintian/overrides)
file(COPY_FILE ${CMAKE_CURRENT_LIST_DIR}/debian/lintian-overrides ${root}/usr/share/lintian/overrides/faultline)
file(COPY_FILE ${CMAKE_CURRENT_LIST_DIR}/debian/default ${root}/etc/default/faultline)
file(MAKE_DIRECTORY ${root}/etc/faultline/restores.d)
file(COPY_FILE ${CMAKE_CURRENT_LIST_DIR}/debian/faultline.conf ${root}/etc/faultline/faultline.conf)
