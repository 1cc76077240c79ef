/* Unwind rules: how to get from a frame to its caller, learnt from a module's .eh_frame. x86-64 only.
 * May include: the C library's freestanding headers only. */
#ifndef MOAT_PORT_CFI_H
#define MOAT_PORT_CFI_H

#include <stdbool.h>
#include <stdint.h>

enum moat_rule_kind {
    MOAT_RULE_NONE,     /* no information about this address: the stack cannot be followed */
    MOAT_RULE_JUNK,     /* nor is it a return address */
    MOAT_RULE_SP,       /* CFA = rsp + cfa_offset */
    MOAT_RULE_BP,       /* CFA = rbp + cfa_offset */
    MOAT_RULE_BP_DEREF, /* CFA = *(rbp + cfa_offset): functions that realign their stack */
    MOAT_RULE_SIGNAL,   /* the kernel's frame under a signal handler: the registers of what it interrupted are at rsp */
    MOAT_RULE_END,      /* the outermost frame */
    MOAT_RULE_HARD      /* beyond these rules: other expressions and registers */
};

enum moat_rule_bp {
    MOAT_RULE_BP_SAME,   /* the caller's rbp is the frame's own */
    MOAT_RULE_BP_AT_CFA, /* it is saved at CFA + bp_offset */
    MOAT_RULE_BP_AT_BP   /* it is saved at rbp + bp_offset */
};

enum { MOAT_RULE_KIND_BITS = 3, MOAT_RULE_BP_BITS = 2 };

/* The return address is always at CFA - 8. */
struct moat_rule {
    int32_t cfa_offset;
    int16_t bp_offset;
    uint8_t kind; /* enum moat_rule_kind */
    uint8_t bp;   /* enum moat_rule_bp */
};

/* The rule in force at an address of code, which for a return address is the address before it.
 * Takes:   pc; header: the .eh_frame_hdr of the module that holds it, mapped.
 * Gives:   the rule; MOAT_RULE_NONE when the module says nothing of the address, MOAT_RULE_HARD for forms this reader
 *          does not know.
 * Cost:    a binary search and one pass over the function's instructions: about a microsecond.
 * Source:  DWARF 5, section 6.4; System V ABI, x86-64 supplement, section 3.6; Linux Standard Base 5.0, sections 10.6
 *          and 10.7. */
struct moat_rule moat_cfi_rule(uintptr_t pc, const void *header);

#endif
