/* consumer SOCKET MEMORY-FILE: restores the file's memory through an installed faultline and compares every
 * byte. 77: this machine does not allow userfaultfd. */
#include <errno.h>
#include <faultline_client.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char* contentOf(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) return NULL;
  *size = (size_t)ftell(file);
  rewind(file);
  unsigned char* content = malloc(*size);
  const size_t got = content == NULL ? 0 : fread(content, 1, *size, file);
  fclose(file);
  return got == *size ? content : NULL;
}

int main(int argc, char** argv) {
  size_t size = 0;
  unsigned char* expected = argc == 3 ? contentOf(argv[2], &size) : NULL;
  if (expected == NULL) {
    fprintf(stderr, "consumer SOCKET MEMORY-FILE\n");
    return 2;
  }
  const faultline_region region = {size, 0, 4096};
  faultline_target* target = NULL;
  char why[256] = "";
  const int opened = faultline_target_open(&region, 1, 0, &target, why, sizeof why);
  if (opened == -EPERM || opened == -ENOSYS) {
    fprintf(stderr, "%s\n", why);
    return 77;
  }
  if (opened != 0 || faultline_target_connect(target, argv[1], 20000, why, sizeof why) != 0) {
    fprintf(stderr, "%s\n", why);
    return 1;
  }
  const int same = memcmp(faultline_target_address(target, 0), expected, size) == 0;
  faultline_target_close(target);
  free(expected);
  if (!same) fprintf(stderr, "the memory is not the file's\n");
  return same ? 0 : 1;
}
