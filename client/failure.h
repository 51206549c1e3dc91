/* Private to the library: an error's message for the caller. */
#ifndef FAULTLINE_FAILURE_H
#define FAULTLINE_FAILURE_H

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

struct Why {
  char* text; /* may be NULL */
  size_t size;
};

/* Writes the message, of which %m is `error` in words; returns -error. */
__attribute__((format(printf, 3, 4))) static inline int fail(const struct Why* why, int error,
                                                             const char* format, ...) {
  if (why->text == NULL || why->size == 0) return -error;
  va_list arguments;
  va_start(arguments, format);
  errno = error;
  vsnprintf(why->text, why->size, format, arguments);
  va_end(arguments);
  return -error;
}

#endif
