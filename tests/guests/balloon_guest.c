/* A guest without an operating system that relies on every byte of its memory: it fills all of it, reads it
 * again and again, gives pages back through the VMM's own virtio balloon just before it comes to them, and
 * expects zeros there.
 *
 * Its words on the serial port: HELD once all is filled, TICK n after each walk over its memory, and BAD at the
 * first words that are wrong: "BAD stale" where a page that was given back has its old bytes, "BAD bytes"
 * where another has not what it was filled with. "GIVES" says that there is a balloon. */
#include <stdint.h>

/* Loops stay loops: there is no memset here to be called. clang, which only reads this, makes none without a library. */
#ifndef __clang__
#pragma GCC optimize("no-tree-loop-distribute-patterns")
#endif

enum {
  PAGE = 4096,
  WORDS = 8, /* read of each page, evenly spread */
  STRIDE = PAGE / 8 / WORDS,
  BATCH = 256,         /* pages given back at once */
  EVERY = 1024,        /* pages, of which one batch is given back */
  AHEAD = 512,         /* of the walk, when it is given back: these faults meet the removal */
  PAGES_MAX = 5 << 18, /* what balloon_guest_entry.S maps */
  RANGES_MAX = 8,
  TOLD_MAX = 4,
  SERIAL = 0x3f8,
};
#define FIRST_USABLE 0x800000u /* this program lies below */

/* --- the serial port --- */

static inline void out8(uint16_t port, uint8_t value) {
  __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}
static inline uint8_t in8(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}
static void say(const char* text) {
  for (; *text != '\0'; text++) {
    while ((in8(SERIAL + 5) & 0x20) == 0) continue;
    out8(SERIAL, (uint8_t)*text);
  }
}
static void sayNumber(uint64_t value) {
  char digits[21];
  int at = 20;
  digits[at] = '\0';
  do digits[--at] = (char)('0' + value % 10);
  while ((value /= 10) != 0);
  say(&digits[at]);
}

/* --- its memory --- */

static struct { uint64_t start, pages; } ranges[RANGES_MAX];
static unsigned rangeCount;
static uint64_t pageCount;
static uint8_t generations[PAGES_MAX]; /* what each page was filled with last */

/* From hvm_start_info (Xen's pvh.h): the memory map, of entries of 24 bytes. */
static void findMemory(const uint8_t* info) {
  const uint64_t map = *(const uint64_t*)(info + 40);
  const uint32_t entries = *(const uint32_t*)(info + 48);
  for (uint32_t i = 0; i < entries && rangeCount < RANGES_MAX; i++) {
    const uint64_t* entry = (const uint64_t*)(map + i * 24ul);
    uint64_t start = entry[0], end = entry[0] + entry[1];
    if ((uint32_t)entry[2] != 1) continue; /* not RAM */
    if (start < FIRST_USABLE) start = FIRST_USABLE;
    start = (start + PAGE - 1) / PAGE * PAGE;
    if (end < start + 2ul * EVERY * PAGE) continue;
    ranges[rangeCount].start = start;
    ranges[rangeCount].pages = (end - start) / PAGE;
    pageCount += ranges[rangeCount++].pages;
  }
  if (pageCount > PAGES_MAX) pageCount = PAGES_MAX;
}

static volatile uint64_t* pageAt(uint64_t page) {
  unsigned range = 0;
  while (page >= ranges[range].pages) page -= ranges[range++].pages;
  return (volatile uint64_t*)(ranges[range].start + page * PAGE);
}

static uint64_t valueOf(uint64_t page, uint64_t word) {
  return ((page << 16 | word << 8 | generations[page]) + 1) * 0x9e3779b97f4a7c15u;
}

static unsigned told;
static void bad(const char* what, uint64_t page, uint64_t word) {
  if (told++ >= TOLD_MAX) return;
  say(what);
  say(" page ");
  sayNumber(page);
  say(" word ");
  sayNumber(word);
  say("\n");
}

static void fill(uint64_t page) {
  volatile uint64_t* memory = pageAt(page);
  for (uint64_t i = 0; i < WORDS; i++) memory[i * STRIDE] = valueOf(page, i);
}
static void expectOwn(uint64_t page) {
  volatile uint64_t* memory = pageAt(page);
  for (uint64_t i = 0; i < WORDS; i++)
    if (memory[i * STRIDE] != valueOf(page, i)) {
      bad("BAD bytes", page, i);
      fill(page);
      return;
    }
}
static void expectZeros(uint64_t page) {
  volatile uint64_t* memory = pageAt(page);
  for (uint64_t i = 0; i < WORDS; i++)
    if (memory[i * STRIDE] != 0) {
      bad("BAD stale", page, i);
      return;
    }
}

/* --- the balloon: virtio over MMIO, version 2 (the virtio specification, 4.2 and 5.5) --- */

enum { MAGIC = 0x00, VERSION = 0x04, DEVICE = 0x08, FEATURES_OF = 0x20, FEATURES_OF_SELECT = 0x24 };
enum { QUEUE = 0x30, QUEUE_SIZE = 0x38, QUEUE_READY = 0x44, NOTIFY = 0x50, STATUS = 0x70 };
enum { QUEUE_DESCRIPTORS = 0x80, QUEUE_AVAILABLE = 0x90, QUEUE_USED = 0xa0 };
enum { INFLATE, DEFLATE, QUEUES, SLOTS = 8 };

static struct {
  struct {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
  } descriptors[SLOTS];
  struct {
    uint16_t flags, index, ring[SLOTS];
  } available;
  struct {
    uint16_t flags, index;
    struct {
      uint32_t id, length;
    } ring[SLOTS];
  } used __attribute__((aligned(16)));
} __attribute__((aligned(PAGE))) volatile queues[QUEUES];
static uint32_t frames[QUEUES][BATCH];
static volatile uint32_t* balloon; /* its registers; 0: there is none */

static volatile uint32_t* registerOf(uint64_t device, unsigned offset) {
  return (volatile uint32_t*)(device + offset);
}

/* The places where VMMs have their devices: Firecracker before and since it has PCI, QEMU's microvm. */
static uint64_t findBalloon(void) {
  static const struct {
    uint64_t start, step, count;
  } places[] = {{0xc0000000, 0x1000, 16}, {0xd0000000, 0x1000, 16}, {0xfeb00000, 0x200, 32}};
  for (unsigned i = 0; i < sizeof places / sizeof *places; i++)
    for (uint64_t n = 0; n < places[i].count; n++) {
      const uint64_t device = places[i].start + n * places[i].step;
      if (*registerOf(device, MAGIC) == 0x74726976 && *registerOf(device, DEVICE) == 5) return device;
    }
  return 0;
}

static void setQueue(uint64_t device, unsigned queue) {
  *registerOf(device, QUEUE) = queue;
  *registerOf(device, QUEUE_SIZE) = SLOTS;
  const uint64_t parts[][2] = {{QUEUE_DESCRIPTORS, (uint64_t)&queues[queue].descriptors},
                               {QUEUE_AVAILABLE, (uint64_t)&queues[queue].available},
                               {QUEUE_USED, (uint64_t)&queues[queue].used}};
  for (unsigned i = 0; i < 3; i++) {
    *registerOf(device, (unsigned)parts[i][0]) = (uint32_t)parts[i][1];
    *registerOf(device, (unsigned)parts[i][0] + 4) = (uint32_t)(parts[i][1] >> 32);
  }
  *registerOf(device, QUEUE_READY) = 1;
}

static void openBalloon(void) {
  const uint64_t device = findBalloon();
  if (device == 0) return;
  *registerOf(device, STATUS) = 0;
  *registerOf(device, STATUS) = 1;
  *registerOf(device, STATUS) = 1 | 2;
  *registerOf(device, FEATURES_OF_SELECT) = 0;
  *registerOf(device, FEATURES_OF) = 0;
  *registerOf(device, FEATURES_OF_SELECT) = 1;
  *registerOf(device, FEATURES_OF) = 1; /* VIRTIO_F_VERSION_1 */
  *registerOf(device, STATUS) = 1 | 2 | 8;
  if ((*registerOf(device, STATUS) & 8) == 0) {
    say("BAD balloon: it does not take our features\n");
    return;
  }
  for (unsigned queue = 0; queue < QUEUES; queue++) setQueue(device, queue);
  *registerOf(device, STATUS) = 1 | 2 | 4 | 8;
  balloon = registerOf(device, 0);
  say("GIVES\n");
}

/* Hands BATCH pages from `page` on to the balloon; it takes them while we go on. */
static void offer(unsigned queue, uint64_t page) {
  for (uint64_t i = 0; i < BATCH; i++) frames[queue][i] = (uint32_t)((uint64_t)pageAt(page + i) / PAGE);
  queues[queue].descriptors[0].address = (uint64_t)frames[queue];
  queues[queue].descriptors[0].length = sizeof frames[queue];
  queues[queue].available.ring[queues[queue].available.index % SLOTS] = 0;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  queues[queue].available.index++;
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  balloon[NOTIFY / 4] = queue;
}
static void awaitTaken(unsigned queue) {
  while (queues[queue].used.index != queues[queue].available.index) __asm__ volatile("pause");
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* --- the walk --- */

static void walk(void) {
  for (uint64_t first = 0; first < pageCount; first += EVERY) {
    const uint64_t given = first + AHEAD;
    const int gives = balloon != 0 && given + BATCH <= pageCount;
    if (gives) offer(INFLATE, given);
    for (uint64_t page = first; page < first + EVERY && page < pageCount; page++) {
      if (!gives || page < given || page >= given + BATCH) {
        expectOwn(page);
        continue;
      }
      if (page == given) {
        awaitTaken(INFLATE);
        offer(DEFLATE, given);
        awaitTaken(DEFLATE);
      }
      expectZeros(page);
      generations[page]++;
      fill(page);
    }
  }
}

void guest(const uint8_t* info);
void guest(const uint8_t* info) {
  findMemory(info);
  openBalloon();
  for (uint64_t page = 0; page < pageCount; page++) fill(page);
  say("HELD ");
  sayNumber(pageCount);
  say("\n");
  for (uint64_t round = 1;; round++) {
    walk();
    say("TICK ");
    sayNumber(round);
    say("\n");
  }
}
