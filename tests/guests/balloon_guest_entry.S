/* The PVH entry of balloon_guest.c: QEMU, Firecracker (1.12 and later) and Cloud Hypervisor begin here in 32-bit protected
 * mode without paging, %ebx at the hvm_start_info. Maps the first 5 GiB to themselves and goes on in 64-bit mode. */
#define TABLES 5 /* page directories of 1 GiB each: memory behind the gap below 4 GiB is reached, too */
#define PRESENT_WRITABLE 0x3
#define LARGE 0x80
#define CR4_PAE 0x20
#define EFER 0xc0000080
#define EFER_LONG_MODE 0x100
#define CR0_PAGING 0x80000000

	.section .note.PVH, "a", @note
	.align	4
	.long	4, 8, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz	"Xen"
	.quad	entry

	.text
	.code32
	.globl	entry
entry:
	cld
	xor	%eax, %eax		/* not every loader leaves zeros there */
	mov	$__bss_start, %edi
	mov	$_end, %ecx
	sub	%edi, %ecx
	rep stosb
	mov	$stack_end, %esp
	mov	$directories, %edi
	xor	%ecx, %ecx
.Lpages:
	mov	%ecx, %eax
	shl	$21, %eax
	or	$(PRESENT_WRITABLE | LARGE), %eax
	mov	%eax, (%edi)
	mov	%ecx, %eax
	shr	$11, %eax
	mov	%eax, 4(%edi)
	add	$8, %edi
	inc	%ecx
	cmp	$(TABLES * 512), %ecx
	jb	.Lpages
	mov	$pointers, %edi
	mov	$(directories + PRESENT_WRITABLE), %eax
	mov	$TABLES, %ecx
.Ldirectories:
	mov	%eax, (%edi)
	add	$4096, %eax
	add	$8, %edi
	dec	%ecx
	jnz	.Ldirectories
	movl	$(pointers + PRESENT_WRITABLE), top
	mov	%cr4, %eax
	or	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	$top, %eax
	mov	%eax, %cr3
	mov	$EFER, %ecx
	rdmsr
	or	$EFER_LONG_MODE, %eax
	wrmsr
	mov	%cr0, %eax
	or	$CR0_PAGING, %eax
	mov	%eax, %cr0
	lgdt	descriptors_at
	ljmp	$8, $.Llong

	.code64
.Llong:
	mov	$16, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	$stack_end, %rsp
	mov	%ebx, %edi
	call	guest
	hlt

	.section .rodata
	.align	8
descriptors:
	.quad	0
	.quad	0x00af9b000000ffff	/* 8: 64-bit code */
	.quad	0x00cf93000000ffff	/* 16: data */
descriptors_at:
	.word	. - descriptors - 1
	.long	descriptors

	.bss
	.align	4096
top:		.skip	4096
pointers:	.skip	4096
directories:	.skip	4096 * TABLES
		.skip	8192
stack_end:
	.section .note.GNU-stack, "", @progbits
