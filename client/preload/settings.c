#include "settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TIMEOUT_MS = 10000, TIMEOUT_MAX_MS = 3600000 };

/* All of the text as a decimal number; 0 where it is none. */
static int readDecimal(const char* text, uint64_t* value) {
  if (*text < '0' || *text > '9') return 0;
  char* end = NULL;
  const unsigned long long number = strtoull(text, &end, 10);
  *value = number;
  return *end == '\0' && number < OFFSET_FOLLOWS;
}

/* FILE or FILE@OFFSET. */
static int readFile(char* entry, MemoryFile* file, char* why, size_t why_size) {
  file->offset = OFFSET_FOLLOWS;
  char* at = strrchr(entry, '@');
  if (at != NULL) {
    *at = '\0';
    if (!readDecimal(at + 1, &file->offset)) {
      snprintf(
          why, why_size,
          "FAULTLINE_PRELOAD_MEMORY: the offset '%s' of %s is not a number of bytes; write FILE@OFFSET, or "
          "FILE alone",
          at + 1, entry);
      return -1;
    }
  }
  if (entry[0] != '/' || strlen(entry) >= sizeof file->path) {
    snprintf(why, why_size, "FAULTLINE_PRELOAD_MEMORY: '%s' must be a file's full path, from / on", entry);
    return -1;
  }
  memcpy(file->path, entry, strlen(entry) + 1);
  return 0;
}

static int readFiles(const char* list, Settings* settings, char* why, size_t why_size) {
  char* copy = strdup(list);
  if (copy == NULL) {
    snprintf(why, why_size, "no memory to read FAULTLINE_PRELOAD_MEMORY");
    return -1;
  }
  int result = 0;
  char* rest = NULL;
  for (char* entry = strtok_r(copy, ",", &rest); entry != NULL && result == 0;
       entry = strtok_r(NULL, ",", &rest)) {
    if (settings->count == MEMORY_FILES_MAX) {
      snprintf(why, why_size, "FAULTLINE_PRELOAD_MEMORY names more than %d files", MEMORY_FILES_MAX);
      result = -1;
    } else {
      result = readFile(entry, &settings->files[settings->count++], why, why_size);
    }
  }
  free(copy);
  return result;
}

int readSettings(Settings* settings, char* why, size_t why_size) {
  const char* socket = getenv("FAULTLINE_PRELOAD_SOCKET");
  const char* memory = getenv("FAULTLINE_PRELOAD_MEMORY");
  const char* timeout = getenv("FAULTLINE_PRELOAD_TIMEOUT_MS");
  *settings = (Settings){.timeout_ms = TIMEOUT_MS};
  if (socket == NULL && memory == NULL) return 0;
  if (socket == NULL || memory == NULL) {
    snprintf(why, why_size,
             "%s is set and %s is not; it takes both: the page server's socket, and the file that "
             "the program maps as its memory",
             socket != NULL ? "FAULTLINE_PRELOAD_SOCKET" : "FAULTLINE_PRELOAD_MEMORY",
             socket != NULL ? "FAULTLINE_PRELOAD_MEMORY" : "FAULTLINE_PRELOAD_SOCKET");
    return -1;
  }
  uint64_t ms = TIMEOUT_MS;
  if (timeout != NULL && (!readDecimal(timeout, &ms) || ms > TIMEOUT_MAX_MS)) {
    snprintf(why, why_size, "FAULTLINE_PRELOAD_TIMEOUT_MS: '%s' is not a number from 0 to %d", timeout,
             TIMEOUT_MAX_MS);
    return -1;
  }
  settings->timeout_ms = (unsigned)ms;
  if (socket[0] == '\0' || strlen(socket) >= sizeof settings->socket) {
    snprintf(why, why_size, "FAULTLINE_PRELOAD_SOCKET: '%s' is not a socket's path", socket);
    return -1;
  }
  memcpy(settings->socket, socket, strlen(socket) + 1);
  if (readFiles(memory, settings, why, why_size) != 0) return -1;
  if (settings->count > 0) return 0;
  snprintf(why, why_size,
           "FAULTLINE_PRELOAD_MEMORY is empty; it names the files that the program maps as its memory");
  return -1;
}
