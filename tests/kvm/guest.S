/* The guest: 32-bit protected mode, no paging, flat segments, a stack of some words. Each vCPU goes over pages of its
 * own (guest.h: useOf), which come from the snapshot as it touches them:
 *
 *   1. reads each page into its sum, or gives it back without; writes the page's number into some, gives others back;
 *   2. waits until what it gave back has gone;
 *   3. takes the pages that it gave back into use again: they must read as zeros.
 *
 * Its numbers are in registers: %ebx page, %edi the page's address, %ebp sum. */
#include "tests/kvm/guest.h"

	.section .rodata
	.globl	faultline_guest_begin, faultline_guest_end
	.code32
faultline_guest_begin:
	xor	%ebp, %ebp
	mov	%fs:GUEST_FIRST, %ebx
.Lwalk:
	cmp	%fs:GUEST_END, %ebx
	jae	.Lsettle
	call	.Lfind
	mov	%ebx, %edx
	and	$7, %edx
	cmp	$5, %edx
	je	.Lgive_back
	call	.Lread
	cmp	$3, %edx
	je	.Lgive_back
	test	$1, %edx
	jz	.Lwalk_on
	mov	%ebx, 4(%edi)
	jmp	.Lwalk_on
.Lgive_back:
	mov	%edi, %eax
	out	%eax, $GUEST_PORT_GIVE_BACK
.Lwalk_on:
	add	%fs:GUEST_STEP, %ebx
	jmp	.Lwalk

.Lsettle:
	in	$GUEST_PORT_SETTLED, %eax
	mov	%fs:GUEST_FIRST, %ebx
.Lreuse:
	cmp	%fs:GUEST_END, %ebx
	jae	.Ldone
	mov	%ebx, %edx
	and	$7, %edx
	cmp	$3, %edx
	je	.Lexpect_zeros
	cmp	$5, %edx
	jne	.Lreuse_on
.Lexpect_zeros:
	call	.Lfind
	push	%ebp
	xor	%ebp, %ebp
	call	.Lread
	test	%ebp, %ebp
	pop	%ebp
	jnz	.Lstale
	mov	%ebx, 4(%edi)
.Lreuse_on:
	add	%fs:GUEST_STEP, %ebx
	jmp	.Lreuse

.Ldone:
	mov	%ebp, %eax
	out	%eax, $GUEST_PORT_SUM
	hlt
.Lstale:
	mov	%edi, %eax
	out	%eax, $GUEST_PORT_STALE
	hlt

/* %edi: the address of page %ebx. */
.Lfind:
	mov	%ebx, %edi
	mov	%fs:GUEST_SHIFT, %ecx
	cmp	%fs:GUEST_LOW, %ebx
	jb	.Lin_low_memory
	sub	%fs:GUEST_LOW, %edi
	shl	%cl, %edi
	add	%fs:GUEST_HIGH, %edi
	ret
.Lin_low_memory:
	shl	%cl, %edi
	ret

/* Adds words of the page at %edi to %ebp, so that their order counts. */
.Lread:
	mov	%fs:GUEST_SHIFT, %ecx
	mov	$1, %eax
	shl	%cl, %eax
	shr	$4, %eax
	mov	$GUEST_WORDS, %ecx
	mov	%edi, %esi
.Lword:
	rol	$1, %ebp
	add	(%esi), %ebp
	add	%eax, %esi
	dec	%ecx
	jnz	.Lword
	ret
faultline_guest_end:
	.code64
	.section .note.GNU-stack, "", @progbits
