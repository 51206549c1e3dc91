/* The memory to be taken, as the environment names it. */
#ifndef FAULTLINE_PRELOAD_SETTINGS_H
#define FAULTLINE_PRELOAD_SETTINGS_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

enum { MEMORY_FILES_MAX = 64 };
#define OFFSET_FOLLOWS UINT64_MAX /* behind the memory file before it */

/* A file that the program maps as its memory, and where that memory begins in the snapshot's memory file. */
typedef struct MemoryFile {
  char path[PATH_MAX];
  uint64_t offset; /* bytes */
} MemoryFile;

typedef struct Settings {
  char socket[PATH_MAX]; /* empty: nothing is to be taken */
  unsigned timeout_ms;   /* for the page server to be there and to take the connection */
  size_t count;
  MemoryFile files[MEMORY_FILES_MAX];
} Settings;

/* Reads FAULTLINE_PRELOAD_*. 0, also where none of them is set; -1: they make no sense, and `why` says how.
 */
int readSettings(Settings* settings, char* why, size_t why_size);

#endif
