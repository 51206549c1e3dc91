// The contract between guest and VMM. Read by the assembler, too.
#pragma once

// Ports, each 32 bits wide.
#define GUEST_PORT_GIVE_BACK 0x10 /* out: address of a page that the guest does not need any more */
#define GUEST_PORT_SETTLED 0x14   /* in: answered once everything given back has left the guest's memory */
#define GUEST_PORT_SUM 0x18       /* out: what the vCPU has read, summed up; it halts then */
#define GUEST_PORT_STALE 0x1c     /* out: address of a page that was given back and has old bytes */

// A vCPU's part of the work, in guest memory, at %fs:0.
#define GUEST_FIRST 0   /* its first page; pages are numbered over low and high memory */
#define GUEST_STEP 4    /* from one of its pages to the next */
#define GUEST_END 8     /* pages in all */
#define GUEST_LOW 12    /* of these in low memory, which begins at 0 */
#define GUEST_HIGH 16   /* address of the first page of high memory, behind a gap */
#define GUEST_SHIFT 20  /* log2 of the page size */
#define GUEST_STACK 256 /* the block's end, and of the stack in it */

#define GUEST_WORDS 16 /* that are read of a page, evenly spread */

#define GUEST_ENTRY 0x1000  /* address of the program */
#define GUEST_BLOCKS 0x2000 /* of the first vCPU's block */

#ifndef __ASSEMBLER__
#include <cstdint>

namespace faultline::kvm {

// Use of a page by a vCPU, by the page's number.
enum class Use { readOnly, written, givenBackAfterRead, givenBackUntouched };
constexpr Use useOf(std::uint64_t page) {
  if (page % 8 == 5) return Use::givenBackUntouched;
  if (page % 8 == 3) return Use::givenBackAfterRead;
  return page % 2 != 0 ? Use::written : Use::readOnly;
}

// The program, to be loaded at GUEST_ENTRY.
extern "C" const char faultline_guest_begin[], faultline_guest_end[];

}  // namespace faultline::kvm
#endif
