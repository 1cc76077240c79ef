/* The finding: what every check of Moat produces, on every platform, and the only thing that is ever printed.
 * May include: the C library's freestanding headers only.
 *
 * A finding is self-contained: it holds copies of all it speaks of, so that it can be written to a file, sent over a
 * wire and read by a process of another word size. Every field has a fixed width. */
#ifndef MOAT_FINDING_H
#define MOAT_FINDING_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum moat_kind {
    MOAT_KIND_NONE,
    MOAT_HEAP_BUFFER_OVERFLOW,
    MOAT_HEAP_BUFFER_UNDERFLOW,
    MOAT_HEAP_USE_AFTER_FREE,
    MOAT_DOUBLE_FREE,
    MOAT_INVALID_FREE,
    MOAT_ALLOC_DEALLOC_MISMATCH,
    MOAT_CORRUPTED_METADATA,
    MOAT_INVALID_ARGUMENT,
    MOAT_OUT_OF_MEMORY,
    MOAT_CALL_FROM_INTERRUPT,
    MOAT_MEMORY_LEAK,
    MOAT_KIND_COUNT
};

/* During which operation it was found. */
enum moat_when {
    MOAT_WHEN_FREE,
    MOAT_WHEN_REALLOC,
    MOAT_WHEN_QUARANTINE, /* as the block left the quarantine */
    MOAT_WHEN_CHECK,      /* a full check the program asked for, or one before a fatal signal */
    MOAT_WHEN_EXIT,
    MOAT_WHEN_ACCESS, /* at the instruction itself */
    MOAT_WHEN_CALL,   /* a call's arguments were wrong */
    MOAT_WHEN_COUNT
};

/* Which family of calls allocated or frees a block. */
enum moat_family {
    MOAT_FAMILY_MALLOC,
    MOAT_FAMILY_NEW,
    MOAT_FAMILY_NEW_ARRAY,
    MOAT_FAMILY_ALIGNED, /* aligned_alloc, posix_memalign, memalign ...; free takes these as well */
    MOAT_FAMILY_NEW_ALIGNED,
    MOAT_FAMILY_NEW_ARRAY_ALIGNED,
    MOAT_FAMILY_POOL,
    MOAT_FAMILY_ARENA,
    MOAT_FAMILY_GUARDED, /* an allocator of the program's own, under a guard */
    MOAT_FAMILY_COUNT
};

enum moat_block_state {
    MOAT_BLOCK_NONE,
    MOAT_BLOCK_LIVE,
    MOAT_BLOCK_FILLING,     /* freed, its bytes being poisoned */
    MOAT_BLOCK_QUARANTINED, /* freed, poisoned, held back from reuse */
    MOAT_BLOCK_RETIRED,     /* found damaged: reported and never used again */
    MOAT_BLOCK_STATE_COUNT
};

enum moat_leak_class {
    MOAT_LEAK_NONE,
    MOAT_LEAK_DEFINITE,
    MOAT_LEAK_INDIRECT,
    MOAT_LEAK_POSSIBLE,
    MOAT_LEAK_REACHABLE,
    MOAT_LEAK_CLASS_COUNT
};

/* What lies at an address that is no block's start. */
enum moat_place {
    MOAT_PLACE_UNKNOWN,
    MOAT_PLACE_BLOCK,    /* inside a block of Moat's: the finding's block says which */
    MOAT_PLACE_STACK,    /* a thread's stack */
    MOAT_PLACE_GLOBAL,   /* data of a module */
    MOAT_PLACE_CODE,     /* code or constants of a module */
    MOAT_PLACE_MAPPED,   /* mapped, and none of these */
    MOAT_PLACE_UNMAPPED, /* nothing is there */
    MOAT_PLACE_FREE,     /* the heap's own free memory: most likely a block freed long ago */
    MOAT_PLACE_COUNT
};

/* What a finding asks of a caller: further detail of MOAT_INVALID_ARGUMENT. */
enum moat_argument {
    MOAT_ARGUMENT_NONE,
    MOAT_ARGUMENT_SIZE,           /* larger than PTRDIFF_MAX */
    MOAT_ARGUMENT_PRODUCT,        /* count * size overflows */
    MOAT_ARGUMENT_ALIGNMENT,      /* not a power of two, or otherwise not allowed for the call */
    MOAT_ARGUMENT_OVERLAP,        /* memcpy of overlapping ranges */
    MOAT_ARGUMENT_SIZED_DELETE,   /* sized free whose size is not the block's */
    MOAT_ARGUMENT_ALIGNED_DELETE, /* aligned free whose alignment is not the block's */
    MOAT_ARGUMENT_OTHER_OWNER,    /* freed to another allocator than the one it came from: `owner` and `asked` name them */
    MOAT_ARGUMENT_NOT_SINGLY,     /* an arena's block freed by itself */
    MOAT_ARGUMENT_INJECTED,       /* a failure that the options asked for: the program was told that memory is out */
    MOAT_ARGUMENT_COUNT
};

/* What is known of one block. */
struct moat_block_facts {
    uint64_t address; /* user pointer; 0: no block */
    uint64_t size_bytes;
    uint64_t sequence; /* allocation number, from 1; 0 unknown */
    uint32_t allocation_stack;
    uint32_t free_stack;
    uint16_t allocation_thread; /* from 1; 0 unknown */
    uint16_t free_thread;
    uint8_t state;  /* enum moat_block_state */
    uint8_t family; /* enum moat_family */
    uint8_t reserved[2];
};

#define MOAT_DUMP_BYTES 64

/* A piece of memory around the first bad byte, as it was found. Offsets count from the user pointer. */
struct moat_dump {
    int64_t offset;  /* of bytes[0]; a multiple of 8 */
    uint32_t length; /* valid bytes; 0: no dump */
    uint32_t reserved;
    uint64_t bad;                           /* bit i: bytes[i] is not what it must be */
    uint64_t outside;                       /* bit i: bytes[i] lies outside the user's bytes */
    unsigned char bytes[MOAT_DUMP_BYTES];    /* as found */
    unsigned char expected[MOAT_DUMP_BYTES]; /* what was there before, where bad */
};

#define MOAT_OWNER_BYTES 32

struct moat_finding {
    uint8_t kind;          /* enum moat_kind */
    uint8_t when;          /* enum moat_when */
    uint8_t place;         /* enum moat_place of `address` */
    uint8_t argument;      /* enum moat_argument */
    uint8_t caller_family; /* enum moat_family of the call that found it */
    uint8_t leak_class;    /* enum moat_leak_class */
    uint8_t is_write;      /* MOAT_WHEN_ACCESS: 1 for a write, 0 for a read */
    uint8_t header_lost;   /* the guard header was damaged: the block's facts are what could still be proved */
    uint16_t thread;       /* the thread that found it */
    uint16_t reserved16;
    uint32_t found_stack;

    struct moat_block_facts block;        /* the block it speaks of */
    struct moat_block_facts neighbour[2]; /* before and after it; address 0: none */

    /* Offsets from the user pointer of the first and last byte written wrongly, and how many between them are bad. For
     * frees and accesses: `first` is the offset of `address` from the block's user pointer. */
    int64_t first;
    int64_t last;
    uint64_t bad_count;

    /* The pointer passed or accessed, where there is one; for leaks 0. */
    uint64_t address;
    /* Arguments of the call, for MOAT_INVALID_ARGUMENT and MOAT_OUT_OF_MEMORY. */
    uint64_t argument_value[2];

    /* The window: the block was whole at event `whole_at` and damaged by event `bad_by`; an event is an allocation number.
     * 0: unknown. */
    uint64_t whole_at;
    uint64_t bad_by;

    /* MOAT_MEMORY_LEAK: a group of blocks with one allocation stack. */
    uint64_t leak_blocks;
    uint64_t leak_bytes;
    uint64_t leak_indirect_blocks; /* blocks that only this group's blocks point to */
    uint64_t leak_indirect_bytes;

    struct moat_dump dump;
    /* Who the block belongs to and who was asked to free it, where allocators were mixed up: names given to guarded
     * allocators, "the heap" for malloc's; NUL-terminated, empty where it does not apply. */
    char owner[MOAT_OWNER_BYTES];
    char asked[MOAT_OWNER_BYTES];
    char rule[48]; /* MOAT_CORRUPTED_METADATA: which invariant broke; NUL-terminated */
};

#ifdef __cplusplus
}
#endif
#endif
