/* The guest's memory at work: fresh memory must be zeros, memory that is held keeps its bytes, memory that is
 * freed goes back to the host (the kernel reports it within some 2 s).
 *
 * The guest's kernel is started with init_on_free: it zeroes a page as it is freed, and relies on finding it
 * so when it hands the page out again. If the host gives old bytes back for a page that it was told is free,
 * fresh memory is not zero, and this program says so. */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { AREA = 40 << 20, PAGE = 4096, WORDS = PAGE / 8, FREE_SECONDS = 3, TOLD_MAX = 4 };

static unsigned told;

static uint64_t valueOf(unsigned round, size_t word) {
  return ((uint64_t)(round + 1) << 40 | word) * 0x9e3779b97f4a7c15u;
}

static void bad(const char* what, unsigned round, size_t word, uint64_t value) {
  if (told++ < TOLD_MAX)
    printf("BAD %s: round %u page %zu word %zu has %016llx\n", what, round, word / WORDS, word % WORDS,
           (unsigned long long)value);
}

/* Waits for a line of the host's that begins with `word`. */
static void awaitWord(const char* word) {
  char line[64];
  while (fgets(line, sizeof line, stdin) == NULL || strncmp(line, word, strlen(word)) != 0) clearerr(stdin);
}

static int toldToEnd(void) {
  struct pollfd host = {.fd = STDIN_FILENO, .events = POLLIN};
  if (poll(&host, 1, 0) <= 0) return 0;
  awaitWord("end");
  return 1;
}

static void work(unsigned round) {
  uint64_t* area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED) {
    printf("BAD no memory: round %u\n", round);
    return;
  }
  const size_t words = AREA / sizeof *area;
  for (size_t i = 0; i < words; i++) {
    if (area[i] != 0) bad("fresh memory", round, i, area[i]);
    area[i] = valueOf(round, i);
  }
  printf("HELD %u\n", round);
  if (round == 0) awaitWord("go");
  for (size_t i = 0; i < words; i++)
    if (area[i] != valueOf(round, i)) bad("held memory", round, i, area[i]);
  munmap(area, AREA);
  printf("FREED %u\n", round);
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (unsigned round = 0; !toldToEnd(); round++) {
    work(round);
    sleep(FREE_SECONDS);
  }
  return 0;
}
