/* The cache of unwind rules. May include: the port's headers, <link.h>, <stdio.h>, <string.h>, <sys/auxv.h>. */
#define _GNU_SOURCE
#include "guard/port/linux/rules.h"
#include "guard/port/linux/module.h"
#include "guard/port/linux/pages.h"
#include "guard/port/linux/roots.h"
#include "guard/port/linux/state.h"

#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

static struct moat_rules_state *const own = &moat_port_state.rules;

enum { EPOCH_BITS = MOAT_RULE_KEY_EPOCH_BITS + MOAT_RULE_EPOCH_BITS };
_Static_assert((int)MOAT_RULE_HARD < 1 << MOAT_RULE_KIND_BITS, "a kind fits its bits");
_Static_assert((int)MOAT_RULE_BP_AT_BP < 1 << MOAT_RULE_BP_BITS, "so does the way rbp was saved");

#define EPOCH_PERMANENT UINT64_C(0)
/* It comes round after a hundred million unloads. */
#define EPOCH_UNKNOWN ((UINT64_C(1) << EPOCH_BITS) - 1)
#define EPOCH_AFTER(unloads) (1 + (unloads) % (EPOCH_UNKNOWN - 1))

const struct moat_rules_view moat_rules_blind = {.epoch = EPOCH_UNKNOWN};

/* ---- modules that stay ------------------------------------------------------------------------------------------- */

static void stays(uintptr_t start, uintptr_t end) {
    if (own->staying_count < MOAT_RULES_STAYING_MAX && start < end) {
        own->staying[own->staying_count++] = (struct moat_rules_range){start, end};
    }
}

static int visit_module(struct dl_phdr_info *info, size_t size, void *unused) {
    uintptr_t start = UINTPTR_MAX, end = 0;
    (void)size;
    (void)unused;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t at = info->dlpi_addr + header->p_vaddr;
        if (header->p_type == PT_LOAD) {
            start = at < start ? at : start;
            end = at + header->p_memsz > end ? at + header->p_memsz : end;
        }
    }
    stays(start, end);
    return 0;
}

static void module_stays(uintptr_t address) {
    struct moat_module_table table;
    if (moat_module_find_table(address, &table)) {
        stays(table.start, table.end);
    }
}

static bool is_staying(uintptr_t pc) {
    for (unsigned i = 0; i < own->staying_count; i++) {
        if (pc >= own->staying[i].start && pc < own->staying[i].end) {
            return true;
        }
    }
    return false;
}

/* ---- unloading ----------------------------------------------------------------------------------------------------- */

static int visit_first(struct dl_phdr_info *info, size_t size, void *unloads) {
    if (size >= offsetof(struct dl_phdr_info, dlpi_subs) + sizeof info->dlpi_subs) {
        *(uint64_t *)unloads = info->dlpi_subs;
    }
    return 1;
}

/* Whoever runs code of a module has the loader's calls from before it was loaded behind it, so that it sees them counted. */
bool moat_rules_look_again(struct moat_rules_view *view, bool loader_calls) {
    uint64_t unloads = 0;
    uint64_t calls =
        1 + atomic_fetch_add_explicit(&own->loader_calls, loader_calls, memory_order_relaxed) + loader_calls;
    (void)dl_iterate_phdr(visit_first, &unloads);
    if (unloads < view->unloads) {
        /* Namespaces of dlmopen are in use, which the loader's arithmetic is not made for. */
        atomic_store_explicit(&own->unloads_unknown, true, memory_order_relaxed);
    }
    bool changed = unloads != view->unloads || atomic_load_explicit(&own->unloads_unknown, memory_order_relaxed);
    view->loader_calls = calls;
    view->unloads = unloads;
    view->epoch = EPOCH_AFTER(unloads);
    return changed;
}

/* ---- rules --------------------------------------------------------------------------------------------------------- */

void moat_rules_init(bool first) {
    if (own->entries != NULL) {
        return;
    }
    if (first) {
        (void)dl_iterate_phdr(visit_module, NULL);
    } else {
        module_stays(getauxval(AT_ENTRY));
        module_stays(getauxval(AT_BASE));
        module_stays((uintptr_t)stdout); /* lies in the C library */
    }
    moat_module_get_loader(&own->loader.start, &own->loader.end);
    own->entries = moat_pages_map(sizeof(struct moat_rules_entry) << MOAT_RULES_BITS, 0);
}

bool moat_rules_are_available(void) { return own->entries != NULL; }

/* E8 with an offset, or FF /2 with its operand. */
bool moat_rules_follows_call(uintptr_t return_address) {
    enum { CALL_BYTES_MAX = 7, CALL_RELATIVE_BYTES = 5, OP_CALL_RELATIVE = 0xe8, OP_INDIRECT = 0xff };
    enum { MODRM_OPERATION_SHIFT = 3, MODRM_OPERATION_MASK = 7, OPERATION_CALL = 2 };
    unsigned char code[CALL_BYTES_MAX];
    if (moat_memory_copy(code, return_address - sizeof code, sizeof code) != sizeof code) {
        return false;
    }
    bool calls = code[CALL_BYTES_MAX - CALL_RELATIVE_BYTES] == OP_CALL_RELATIVE;
    for (unsigned i = 0; i + 1 < CALL_BYTES_MAX; i++) {
        calls |=
            code[i] == OP_INDIRECT && ((code[i + 1] >> MODRM_OPERATION_SHIFT) & MODRM_OPERATION_MASK) == OPERATION_CALL;
    }
    return calls;
}

/* Whether a return address is where makecontext has a coroutine's first function return to: nothing calls from before it, and
 * its first instruction leaves the coroutine's stack. */
static bool is_context_start(uintptr_t return_address) {
    static const unsigned char leave[] = {0x48, 0x89, 0xdc}; /* mov %rbx, %rsp */
    static const unsigned char landing[] = {0xf3, 0x0f, 0x1e, 0xfa};
    unsigned char code[sizeof landing + sizeof leave];
    if (moat_memory_copy(code, return_address, sizeof code) != sizeof code) {
        return false;
    }
    size_t at = memcmp(code, landing, sizeof landing) == 0 ? sizeof landing : 0;
    return memcmp(code + at, leave, sizeof leave) == 0;
}

/* For an address that no table speaks of. libgcc's unwinder may know more, of code made at run time; but to ask it takes a
 * lock that it holds itself where it allocates and frees, and a stack that ends early is better than a program that hangs. */
static enum moat_rule_kind kind_without_table(uintptr_t pc) {
    if (moat_rules_follows_call(pc + 1)) {
        return MOAT_RULE_NONE;
    }
    return is_context_start(pc + 1) ? MOAT_RULE_END : MOAT_RULE_JUNK;
}

static struct moat_rule learn(uintptr_t pc, uint64_t now, uint64_t *epoch) {
    struct moat_module_table table;
    struct moat_rule rule = {.kind = MOAT_RULE_NONE};
    bool known = moat_module_find_table(pc, &table);
    *epoch = is_staying(pc) ? EPOCH_PERMANENT : now;
    if (known && table.eh_frame_header != NULL) {
        rule = moat_cfi_rule(pc, table.eh_frame_header);
    }
    if (rule.kind == MOAT_RULE_NONE) {
        rule.kind = (uint8_t)kind_without_table(pc);
    }
    return rule;
}

/* Rules are kept only where it can be told for how long they hold. */
static bool may_keep(const struct moat_rule *rule, uint64_t epoch) {
    if (rule->kind == MOAT_RULE_NONE || rule->kind == MOAT_RULE_JUNK || rule->kind == MOAT_RULE_HARD) {
        return epoch == EPOCH_PERMANENT && rule->kind != MOAT_RULE_JUNK;
    }
    return epoch == EPOCH_PERMANENT || (own->loader.end != 0 && epoch != EPOCH_UNKNOWN &&
                                        !atomic_load_explicit(&own->unloads_unknown, memory_order_relaxed));
}

static uint64_t rule_pack(const struct moat_rule *rule, uint64_t epoch) {
    return (uint64_t)(uint32_t)rule->cfa_offset << MOAT_RULE_CFA_OFFSET_SHIFT |
           (uint64_t)(uint16_t)rule->bp_offset << MOAT_RULE_BP_OFFSET_SHIFT |
           epoch >> MOAT_RULE_KEY_EPOCH_BITS << MOAT_RULE_EPOCH_SHIFT | (uint64_t)rule->bp << MOAT_RULE_BP_SHIFT |
           rule->kind;
}

uint64_t moat_rules_find_slowly(uintptr_t pc, const struct moat_rules_view *view) {
    if ((uint64_t)pc >> (MOAT_RULE_PC_BITS - 1) != 0) {
        return MOAT_RULE_JUNK; /* the kernel's half, or no address at all */
    }
    struct moat_rules_entry *entry = moat_rules_entry(pc);
    uint64_t word = atomic_load_explicit(&entry->rule, memory_order_relaxed);
    uint64_t key = atomic_load_explicit(&entry->key, memory_order_relaxed) ^ word;
    uint64_t now = (uint64_t)pc | view->epoch << MOAT_RULE_PC_BITS;
    uint64_t upper = view->epoch >> MOAT_RULE_KEY_EPOCH_BITS << MOAT_RULE_EPOCH_SHIFT;
    if (key == now && (word & MOAT_RULE_EPOCH_MASK) == upper && view->epoch != 0) {
        return word;
    }
    uint64_t epoch;
    struct moat_rule rule = learn(pc, view->epoch, &epoch);
    word = rule_pack(&rule, epoch);
    if (may_keep(&rule, epoch)) {
        key = (uint64_t)pc | epoch << MOAT_RULE_PC_BITS;
        atomic_store_explicit(&entry->rule, word, memory_order_relaxed);
        atomic_store_explicit(&entry->key, key ^ word, memory_order_relaxed);
    }
    return word;
}
