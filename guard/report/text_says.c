/* What happened, in one sentence for a human: one function for each kind of finding.
 * May include: guard/report/text.h. */
#include "guard/report/text.h"

/* Addresses below this belong to a null pointer that something was added to. */
#define NULL_PAGE_BYTES 65536u
/* Where user space ends on the 64-bit processors that Moat knows: no more than 56 bits. */
#define USER_SPACE_END ((uint64_t)1 << 56)

void moat_text_count(struct moat_out *out, uint64_t count, const char *noun) {
    moat_out_grouped(out, count);
    moat_out_char(out, ' ');
    moat_out_text(out, noun);
    moat_out_text(out, count == 1 ? "" : "s");
}

bool moat_block_was_freed(const struct moat_block_facts *block) {
    switch (block->state) {
    case MOAT_BLOCK_FILLING:
    case MOAT_BLOCK_QUARANTINED:
        return true;
    case MOAT_BLOCK_RETIRED:
        return block->free_stack != 0 || block->free_thread != 0;
    default:
        return false;
    }
}

/* How the program names the call that allocates a family's blocks, and the one that frees them. */
static const char *allocating_call(unsigned family) {
    static const char *const calls[] = {
        [MOAT_FAMILY_MALLOC] = "malloc",
        [MOAT_FAMILY_NEW] = "operator new",
        [MOAT_FAMILY_NEW_ARRAY] = "operator new[]",
        [MOAT_FAMILY_ALIGNED] = "an aligned allocation",
        [MOAT_FAMILY_NEW_ALIGNED] = "operator new(std::align_val_t)",
        [MOAT_FAMILY_NEW_ARRAY_ALIGNED] = "operator new[](std::align_val_t)",
        [MOAT_FAMILY_POOL] = "a pool",
        [MOAT_FAMILY_ARENA] = "an arena",
        [MOAT_FAMILY_GUARDED] = "a guarded allocator",
    };
    return family < MOAT_FAMILY_COUNT ? calls[family] : "an unknown call";
}

static const char *freeing_call(const struct moat_finding *finding) {
    static const char *const calls[] = {
        [MOAT_FAMILY_MALLOC] = "free",
        [MOAT_FAMILY_NEW] = "operator delete",
        [MOAT_FAMILY_NEW_ARRAY] = "operator delete[]",
        [MOAT_FAMILY_ALIGNED] = "free",
        [MOAT_FAMILY_NEW_ALIGNED] = "operator delete(std::align_val_t)",
        [MOAT_FAMILY_NEW_ARRAY_ALIGNED] = "operator delete[](std::align_val_t)",
        [MOAT_FAMILY_POOL] = "the pool's free",
        [MOAT_FAMILY_ARENA] = "the arena's free",
        [MOAT_FAMILY_GUARDED] = "a guarded allocator's free",
    };
    if (finding->when == MOAT_WHEN_REALLOC) {
        return "realloc";
    }
    return finding->caller_family < MOAT_FAMILY_COUNT ? calls[finding->caller_family] : "a call that frees";
}

/* Whether a number begins with a vowel when it is read out: eight, eleven, eighteen, eighty, eight thousand. */
static bool takes_an(uint64_t number) {
    while (number >= 1000) {
        number /= 1000;
    }
    bool teen = number == 11 || number == 18;
    while (number >= 10) {
        number /= 10;
    }
    return teen || number == 8;
}

static void say_block(struct moat_out *out, const struct moat_block_facts *block, const char *adjective) {
    moat_out_text(out, adjective[0] == '\0' && takes_an(block->size_bytes) ? "an " : "a ");
    moat_out_text(out, adjective);
    moat_out_grouped(out, block->size_bytes);
    moat_out_text(out, "-byte block");
}

/* ", at offset +24." or ", at offsets +24 to +26." or ", between offsets +24 and +40." when some in between are as they
 * were. */
static void say_range(struct moat_out *out, const struct moat_finding *finding) {
    if (finding->first == finding->last || finding->last < finding->first) {
        moat_out_text(out, ", at offset ");
        moat_out_offset(out, finding->first);
    } else {
        bool whole = finding->bad_count == (uint64_t)(finding->last - finding->first) + 1;
        moat_out_text(out, whole ? ", at offsets " : ", between offsets ");
        moat_out_offset(out, finding->first);
        moat_out_text(out, whole ? " to " : " and ");
        moat_out_offset(out, finding->last);
    }
    moat_out_text(out, ".\n");
}

static void say_bad_count(struct moat_out *out, const struct moat_finding *finding) {
    uint64_t count = finding->bad_count > 0 ? finding->bad_count : 1;
    moat_text_count(out, count, "byte");
    moat_out_text(out, count == 1 ? " was" : " were");
}

/* An access that was caught in the act: `first` is where it hit. */
static void say_access(struct moat_out *out, const struct moat_finding *finding, const char *adjective) {
    int64_t size = finding->block.size_bytes <= INT64_MAX ? (int64_t)finding->block.size_bytes : INT64_MAX;
    moat_out_text(out, finding->is_write ? "a write hit offset " : "a read hit offset ");
    moat_out_offset(out, finding->first);
    moat_out_text(out, " of ");
    say_block(out, &finding->block, adjective);
    if (finding->first >= size) {
        moat_out_text(out, finding->first == size ? ", right behind its end" : ", ");
        if (finding->first > size) {
            moat_text_count(out, (uint64_t)(finding->first - size), "byte");
            moat_out_text(out, " behind its end");
        }
    } else if (finding->first < 0) {
        moat_out_text(out, ", before its start");
    }
    moat_out_text(out, ".\n");
}

static void say_overflow(struct moat_out *out, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    if (finding->when == MOAT_WHEN_ACCESS) {
        say_access(out, finding, moat_block_was_freed(&finding->block) ? "freed " : "");
        return;
    }
    say_bad_count(out, finding);
    moat_out_text(out, finding->kind == MOAT_HEAP_BUFFER_OVERFLOW ? " written past the end of "
                                                                  : " written before the start of ");
    say_block(out, &finding->block, "");
    say_range(out, finding);
}

static void say_use_after_free(struct moat_out *out, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    if (finding->when == MOAT_WHEN_ACCESS) {
        say_access(out, finding, "freed ");
        return;
    }
    say_bad_count(out, finding);
    moat_out_text(out, " written to ");
    say_block(out, &finding->block, "");
    moat_out_text(out, " after it was freed");
    say_range(out, finding);
}

static void say_double_free(struct moat_out *out, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    say_block(out, &finding->block, "");
    moat_out_text(out, finding->when == MOAT_WHEN_REALLOC ? " was passed to realloc after it had been freed.\n"
                                                          : " that had been freed already was freed again, with ");
    if (finding->when != MOAT_WHEN_REALLOC) {
        moat_out_text(out, freeing_call(finding));
        moat_out_text(out, ".\n");
    }
}

static void say_place_in_block(struct moat_out *out, const struct moat_finding *finding) {
    const struct moat_block_facts *block = &finding->block;
    uint64_t distance = finding->first < 0 ? 0 - (uint64_t)finding->first : (uint64_t)finding->first;
    bool behind = finding->first >= 0 && distance >= block->size_bytes;
    if (behind && distance == block->size_bytes) {
        moat_out_text(out, "the end of ");
    } else {
        moat_text_count(out, behind ? distance - block->size_bytes : distance, "byte");
        moat_out_text(out, behind ? " behind the end of " : finding->first < 0 ? " before " : " inside ");
    }
    say_block(out, block, moat_block_was_freed(block) ? "freed " : "");
}

/* Where an address lies that is no block's start: "27 bytes inside a 64-byte block", "on the stack of thread 1". */
static void say_place(struct moat_out *out, const struct moat_report *report) {
    static const char *const places[] = {
        [MOAT_PLACE_UNKNOWN] = "not the start of any block",
        [MOAT_PLACE_BLOCK] = "",
        [MOAT_PLACE_STACK] = "on a thread's stack",
        [MOAT_PLACE_GLOBAL] = "in a module's data, not on the heap",
        [MOAT_PLACE_CODE] = "in a module's code or constants, not on the heap",
        [MOAT_PLACE_MAPPED] = "in mapped memory that is not the heap's",
        [MOAT_PLACE_UNMAPPED] = "in memory that is not mapped",
        [MOAT_PLACE_FREE] = "in the heap's free memory: most likely the block was freed long ago",
    };
    static const char *const named[] = {[MOAT_PLACE_STACK] = "on the ",
                                        [MOAT_PLACE_GLOBAL] = "in the data of ",
                                        [MOAT_PLACE_CODE] = "in the code or constants of ",
                                        [MOAT_PLACE_MAPPED] = "in a mapping of "};
    const struct moat_finding *finding = &report->finding;
    unsigned place = finding->place < MOAT_PLACE_COUNT ? finding->place : MOAT_PLACE_UNKNOWN;
    if (place == MOAT_PLACE_BLOCK && finding->block.address != 0) {
        say_place_in_block(out, finding);
    } else if (finding->address < NULL_PAGE_BYTES && place == MOAT_PLACE_UNMAPPED) {
        moat_out_text(out, "close to the null pointer");
    } else if (report->word_bits == 64 && finding->address >= USER_SPACE_END) {
        moat_out_text(out, "no address a program can have");
    } else if (report->place_name[0] != '\0' && place < sizeof named / sizeof *named && named[place] != NULL) {
        moat_out_text(out, named[place]);
        moat_out_clean_text(out, report->place_name);
    } else {
        moat_out_text(out, place == MOAT_PLACE_BLOCK ? places[MOAT_PLACE_UNKNOWN] : places[place]);
    }
}

static void say_invalid_free(struct moat_out *out, const struct moat_report *report) {
    moat_out_text(out, freeing_call(&report->finding));
    moat_out_text(out, " was called with ");
    moat_out_address(out, report->finding.address);
    moat_out_text(out, ", which is ");
    say_place(out, report);
    moat_out_text(out, ".\n");
}

/* A huge size is most often a negative number: say which. */
static void say_size(struct moat_out *out, const struct moat_report *report, uint64_t size) {
    int64_t negative = report->word_bits == 32 ? (int64_t)(int32_t)(uint32_t)size : (int64_t)size;
    moat_text_count(out, size, "byte");
    if (negative < 0) {
        moat_out_text(out, " (as a signed number ");
        moat_out_signed(out, negative);
        moat_out_char(out, ')');
    }
}

/* A sized or aligned free whose claim is not the block's. */
static void say_wrong_claim(struct moat_out *out, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    say_block(out, &finding->block, "");
    moat_out_text(out, " was freed as one ");
    if (finding->argument == MOAT_ARGUMENT_SIZED_DELETE) {
        moat_out_text(out, "of ");
        say_size(out, report, finding->argument_value[0]);
    } else {
        moat_out_text(out, "aligned to ");
        moat_out_grouped(out, finding->argument_value[0]);
        moat_out_text(out, ", which it is not");
    }
    moat_out_text(out, ".\n");
}

/* A block that was given to another allocator than its own, or that its own does not take back by itself. */
static void say_wrong_owner(struct moat_out *out, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    say_block(out, &finding->block, "");
    moat_out_text(out, " of ");
    moat_out_clean_text(out, finding->owner);
    if (finding->argument == MOAT_ARGUMENT_NOT_SINGLY) {
        moat_out_text(out, " was freed by itself; it goes when the whole is rewound, reset or closed.\n");
        return;
    }
    moat_out_text(out, " was freed to ");
    moat_out_clean_text(out, finding->asked);
    moat_out_text(out, ".\n");
}

static void say_mismatch(struct moat_out *out, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    if (finding->argument == MOAT_ARGUMENT_OTHER_OWNER || finding->argument == MOAT_ARGUMENT_NOT_SINGLY) {
        say_wrong_owner(out, report);
        return;
    }
    if (finding->argument != MOAT_ARGUMENT_NONE) {
        say_wrong_claim(out, report);
        return;
    }
    say_block(out, &finding->block, "");
    moat_out_text(out, " allocated with ");
    moat_out_text(out, allocating_call(finding->block.family));
    moat_out_text(out, finding->when == MOAT_WHEN_REALLOC ? " was passed to " : " was freed with ");
    moat_out_text(out, freeing_call(finding));
    moat_out_text(out, ".\n");
}

static void say_corrupted(struct moat_out *out, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    moat_out_clean_text(out, finding->owner[0] != '\0' ? finding->owner : "the heap");
    moat_out_text(out, "'s own records");
    if (finding->block.address != 0) {
        moat_out_text(out, " of ");
        say_block(out, &finding->block, "");
        moat_out_text(out, " at ");
        moat_out_address(out, finding->block.address);
    } else if (finding->address != 0) {
        moat_out_text(out, " at ");
        moat_out_address(out, finding->address);
    }
    moat_out_text(out, " are damaged");
    if (finding->rule[0] != '\0') {
        moat_out_text(out, ": ");
        moat_out_clean_text(out, finding->rule);
    }
    moat_out_text(out, ".\n");
}

static void say_invalid_argument(struct moat_out *out, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    const uint64_t *value = finding->argument_value;
    switch (finding->argument) {
    case MOAT_ARGUMENT_SIZE:
        moat_out_text(out, "a block of ");
        say_size(out, report, value[0]);
        moat_out_text(out, " was asked for, more than any object can have.\n");
        return;
    case MOAT_ARGUMENT_PRODUCT:
        moat_out_grouped(out, value[0]);
        moat_out_text(out, " elements of ");
        say_size(out, report, value[1]);
        moat_out_text(out, " each were asked for; their product does not fit a size_t.\n");
        return;
    case MOAT_ARGUMENT_ALIGNMENT:
        moat_out_text(out, "an alignment of ");
        moat_out_grouped(out, value[0]);
        moat_out_text(out, " was asked for");
        moat_out_text(out, value[0] == 0 || (value[0] & (value[0] - 1)) != 0 ? ", which is not a power of two.\n"
                                                                             : ", which this call does not allow.\n");
        return;
    case MOAT_ARGUMENT_OVERLAP:
        moat_text_count(out, value[0], "byte");
        moat_out_text(out, " were copied between ranges that overlap, from ");
        moat_out_address(out, value[1]);
        moat_out_text(out, " to ");
        moat_out_address(out, finding->address);
        moat_out_text(out, ".\n");
        return;
    case MOAT_ARGUMENT_SIZED_DELETE:
    case MOAT_ARGUMENT_ALIGNED_DELETE:
        say_wrong_claim(out, report);
        return;
    default:
        moat_out_text(out, "a call's arguments are invalid.\n");
    }
}

static void say_out_of_memory(struct moat_out *out, const struct moat_report *report) {
    const struct moat_finding *finding = &report->finding;
    moat_out_text(out, finding->when == MOAT_WHEN_REALLOC ? "realloc" : allocating_call(finding->caller_family));
    moat_out_text(out, " was asked for ");
    say_size(out, report, finding->argument_value[0]);
    moat_out_text(out, finding->argument == MOAT_ARGUMENT_INJECTED
                           ? " and was told that there is none, as the options asked for.\n"
                           : " and there is no memory left for that.\n");
}

static void say_interrupt(struct moat_out *out, const struct moat_report *report) {
    moat_out_text(out, report->finding.address != 0 ? freeing_call(&report->finding)
                                                    : allocating_call(report->finding.caller_family));
    moat_out_text(out, " was called from an interrupt handler.\n");
}

static void say_leak(struct moat_out *out, const struct moat_report *report) {
    static const char *const reasons[] = {
        [MOAT_LEAK_NONE] = "never freed",
        [MOAT_LEAK_DEFINITE] = "never freed, and nothing points there any more",
        [MOAT_LEAK_INDIRECT] = "never freed, and only leaked blocks point there",
        [MOAT_LEAK_POSSIBLE] = "never freed, and nothing points to the start, only inside",
        [MOAT_LEAK_REACHABLE] = "never freed, though still within reach",
    };
    const struct moat_finding *finding = &report->finding;
    unsigned class = finding->leak_class < MOAT_LEAK_CLASS_COUNT ? finding->leak_class : MOAT_LEAK_NONE;
    moat_text_count(out, finding->leak_bytes, "byte");
    moat_out_text(out, " in ");
    moat_text_count(out, finding->leak_blocks, "block");
    moat_out_text(out, finding->leak_bytes == 1 ? " was " : " were ");
    moat_out_text(out, reasons[class]);
    moat_out_text(out, ".\n");
    if (finding->leak_indirect_blocks > 0) {
        moat_out_to_column(out, MOAT_TEXT_INDENT);
        moat_out_text(out, "lost with them, as only they point there: ");
        moat_text_count(out, finding->leak_indirect_bytes, "byte");
        moat_out_text(out, " in ");
        moat_text_count(out, finding->leak_indirect_blocks, "block");
        moat_out_text(out, ".\n");
    }
}

void moat_text_says(struct moat_out *out, const struct moat_report *report) {
    static void (*const says[])(struct moat_out *, const struct moat_report *) = {
        [MOAT_HEAP_BUFFER_OVERFLOW] = say_overflow,
        [MOAT_HEAP_BUFFER_UNDERFLOW] = say_overflow,
        [MOAT_HEAP_USE_AFTER_FREE] = say_use_after_free,
        [MOAT_DOUBLE_FREE] = say_double_free,
        [MOAT_INVALID_FREE] = say_invalid_free,
        [MOAT_ALLOC_DEALLOC_MISMATCH] = say_mismatch,
        [MOAT_CORRUPTED_METADATA] = say_corrupted,
        [MOAT_INVALID_ARGUMENT] = say_invalid_argument,
        [MOAT_OUT_OF_MEMORY] = say_out_of_memory,
        [MOAT_CALL_FROM_INTERRUPT] = say_interrupt,
        [MOAT_MEMORY_LEAK] = say_leak,
    };
    const struct moat_finding *finding = &report->finding;
    moat_out_to_column(out, MOAT_TEXT_INDENT);
    if (finding->kind < MOAT_KIND_COUNT && says[finding->kind] != NULL) {
        says[finding->kind](out, report);
    } else {
        moat_out_text(out, "a finding of a kind this version does not know.\n");
    }
    if (finding->header_lost) {
        moat_out_to_column(out, MOAT_TEXT_INDENT);
        moat_out_text(out,
                      "the block's own record was overwritten too: size and stacks are what could still be proved.\n");
    }
}
