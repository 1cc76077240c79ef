/* Reads .eh_frame. May include: cfi.h and freestanding headers. */
#include "guard/port/linux/cfi.h"

#include <stddef.h>
#include <string.h>

enum { REGISTER_BP = 6, REGISTER_SP = 7, REGISTER_RA = 16 };

/* Pointer encodings: the low four bits say the size, the next three what it is relative to. */
enum {
    ENCODING_ABSOLUTE = 0x00,
    ENCODING_ULEB = 0x01,
    ENCODING_U2 = 0x02,
    ENCODING_U4 = 0x03,
    ENCODING_U8 = 0x04,
    ENCODING_SLEB = 0x09,
    ENCODING_S2 = 0x0a,
    ENCODING_S4 = 0x0b,
    ENCODING_S8 = 0x0c,
    ENCODING_SIZE_MASK = 0x0f,
    ENCODING_BASE_MASK = 0x70,
    ENCODING_PC_RELATIVE = 0x10,
    ENCODING_ALIGNED = 0x50,
    ENCODING_OMITTED = 0xff,
    ENCODING_TABLE = 0x3b /* of .eh_frame_hdr's table: relative to the header, four bytes, signed */
};

/* Bytes being read; reading past the end gives zeros and sets `bad`. */
struct reader {
    const unsigned char *at;
    const unsigned char *end;
    bool bad;
};

static uint64_t read_bytes(struct reader *reader, size_t count) {
    uint64_t value = 0;
    if ((size_t)(reader->end - reader->at) < count) {
        reader->bad = true;
        reader->at = reader->end;
        return 0;
    }
    memcpy(&value, reader->at, count);
    reader->at += count;
    return value;
}

static uint64_t read_uleb(struct reader *reader) {
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
        uint64_t byte = read_bytes(reader, 1);
        value |= shift < 64 ? (byte & 0x7f) << shift : 0;
        if ((byte & 0x80) == 0) {
            return value;
        }
    }
}

static int64_t read_sleb(struct reader *reader) {
    uint64_t value = 0;
    for (unsigned shift = 0;;) {
        uint64_t byte = read_bytes(reader, 1);
        value |= shift < 64 ? (byte & 0x7f) << shift : 0;
        shift += 7;
        if ((byte & 0x80) == 0) {
            if (shift < 64 && (byte & 0x40) != 0) {
                value |= ~UINT64_C(0) << shift;
            }
            return (int64_t)value;
        }
    }
}

/* A value of an encoding's size, without what it is relative to. */
static uint64_t read_sized(struct reader *reader, unsigned encoding) {
    switch (encoding & ENCODING_SIZE_MASK) {
    case ENCODING_ABSOLUTE:
    case ENCODING_U8:
    case ENCODING_S8:
        return read_bytes(reader, 8);
    case ENCODING_U4:
        return read_bytes(reader, 4);
    case ENCODING_S4:
        return (uint64_t)(int64_t)(int32_t)(uint32_t)read_bytes(reader, 4);
    case ENCODING_U2:
        return read_bytes(reader, 2);
    case ENCODING_S2:
        return (uint64_t)(int64_t)(int16_t)(uint16_t)read_bytes(reader, 2);
    case ENCODING_ULEB:
        return read_uleb(reader);
    case ENCODING_SLEB:
        return (uint64_t)read_sleb(reader);
    default:
        reader->bad = true;
        return 0;
    }
}

static uint64_t read_encoded(struct reader *reader, unsigned encoding) {
    uint64_t base = (encoding & ENCODING_BASE_MASK) == ENCODING_PC_RELATIVE ? (uint64_t)(uintptr_t)reader->at : 0;
    if ((encoding & ENCODING_BASE_MASK) != 0 && base == 0) {
        reader->bad = true;
    }
    return base + read_sized(reader, encoding);
}

/* ---- entries ------------------------------------------------------------------------------------------------------------ */

/* What a function's entry and its common entry say. */
struct entry {
    struct reader common;   /* the common entry's instructions */
    struct reader function; /* the function's */
    uintptr_t start, end;   /* its code */
    uint64_t code_align;
    int64_t data_align;
    unsigned encoding; /* of code addresses */
    bool sized;        /* augmentation data come with their length */
    bool signal_frame;
};

/* A record's contents behind its length; empty when it is a form not known. */
static struct reader record_at(const unsigned char *record) {
    uint32_t length;
    memcpy(&length, record, sizeof length);
    if (length == 0 || length >= 0xfffffff0u) {
        return (struct reader){.bad = true};
    }
    return (struct reader){.at = record + sizeof length, .end = record + sizeof length + length};
}

static void read_augmentation(struct reader *reader, const char *augmentation, struct entry *entry) {
    for (const char *letter = augmentation + 1; *letter != '\0'; letter++) {
        switch (*letter) {
        case 'R':
            entry->encoding = (unsigned)read_bytes(reader, 1);
            break;
        case 'P': {
            unsigned encoding = (unsigned)read_bytes(reader, 1);
            if (encoding != ENCODING_OMITTED) {
                (void)read_sized(reader, encoding);
            }
            reader->bad |= (encoding & ENCODING_BASE_MASK) == ENCODING_ALIGNED;
            break;
        }
        case 'L':
            (void)read_bytes(reader, 1);
            break;
        case 'S':
            entry->signal_frame = true;
            break;
        default:
            reader->bad = true;
            return;
        }
    }
}

static bool read_common(const unsigned char *record, struct entry *entry) {
    struct reader reader = record_at(record);
    if (reader.bad || read_bytes(&reader, 4) != 0) {
        return false;
    }
    uint64_t version = read_bytes(&reader, 1);
    const char *augmentation = (const char *)reader.at;
    while (read_bytes(&reader, 1) != 0) {
    }
    entry->code_align = read_uleb(&reader);
    entry->data_align = read_sleb(&reader);
    uint64_t return_register = version == 1 ? read_bytes(&reader, 1) : read_uleb(&reader);
    entry->encoding = ENCODING_ABSOLUTE;
    entry->sized = augmentation[0] == 'z';
    if (entry->sized) {
        uint64_t length = read_uleb(&reader);
        if (length > (uint64_t)(reader.end - reader.at)) {
            return false;
        }
        const unsigned char *after = reader.at + length;
        read_augmentation(&reader, augmentation, entry);
        reader.at = after;
    } else if (augmentation[0] != '\0') {
        return false;
    }
    entry->common = reader;
    return !reader.bad && (version == 1 || version == 3) && return_register == REGISTER_RA;
}

static bool read_function(const unsigned char *record, struct entry *entry) {
    struct reader reader = record_at(record);
    const unsigned char *pointer_at = reader.at;
    uint32_t back = (uint32_t)read_bytes(&reader, 4);
    if (reader.bad || back == 0 || !read_common(pointer_at - back, entry)) {
        return false;
    }
    entry->start = (uintptr_t)read_encoded(&reader, entry->encoding);
    entry->end = entry->start + (uintptr_t)read_sized(&reader, entry->encoding);
    if (entry->sized) {
        uint64_t skipped = read_uleb(&reader);
        reader.bad |= skipped > (uint64_t)(reader.end - reader.at);
        reader.at += reader.bad ? 0 : skipped;
    }
    entry->function = reader;
    return !reader.bad;
}

/* ---- instructions ------------------------------------------------------------------------------------------------------- */

enum where { WHERE_SAME, WHERE_CFA, WHERE_BP, WHERE_UNDEFINED, WHERE_HARD };

struct place {
    enum where where;
    int64_t offset;
};

/* One row of the table that the instructions describe, as far as it matters. */
struct row {
    unsigned cfa_register;
    int64_t cfa_offset;
    bool cfa_deref, cfa_hard;
    struct place bp, ra;
};

enum { SAVED_ROWS = 8, INSTRUCTIONS_MAX = 100000 };

struct machine {
    const struct entry *entry;
    uintptr_t location, pc;
    struct row row, initial, saved[SAVED_ROWS];
    unsigned saved_count;
    bool bad;
};

static struct place *place_of(struct machine *machine, uint64_t which) {
    return which == REGISTER_BP ? &machine->row.bp : which == REGISTER_RA ? &machine->row.ra : NULL;
}

static void set_place(struct machine *machine, uint64_t which, enum where where, int64_t offset) {
    struct place *place = place_of(machine, which);
    if (place != NULL) {
        *place = (struct place){where, offset};
    }
}

/* The one form of expression that compilers use for frames: rbp + constant, perhaps dereferenced at the end. */
static bool read_bp_expression(struct reader *reader, int64_t *offset, bool *deref) {
    enum { OP_BREG_BP = 0x70 + REGISTER_BP, OP_DEREF = 0x06 };
    uint64_t length = read_uleb(reader);
    struct reader inner = {.at = reader->at, .end = reader->at + length};
    if (length > (uint64_t)(reader->end - reader->at)) {
        reader->bad = true;
        return false;
    }
    reader->at = inner.end;
    if (read_bytes(&inner, 1) != OP_BREG_BP) {
        return false;
    }
    *offset = read_sleb(&inner);
    *deref = inner.at != inner.end && read_bytes(&inner, 1) == OP_DEREF;
    return !inner.bad && inner.at == inner.end;
}

/* A value of an expression: a number, or rsp and a number. */
struct value {
    uint64_t number;
    bool has_sp;
};

enum { VALUES_MAX = 4 };

/* The operations by which linkers describe their tables of jumps, where the CFA depends on the very address. */
static bool run_operation(unsigned operation, struct reader *reader, uintptr_t pc, struct value *values,
                          unsigned *count) {
    enum { OP_AND = 0x1a, OP_PLUS = 0x22, OP_SHL = 0x24, OP_GE = 0x2a, OP_LIT0 = 0x30, OP_LIT31 = 0x4f };
    enum { OP_BREG_SP = 0x70 + REGISTER_SP, OP_BREG_RA = 0x70 + REGISTER_RA };
    if (operation >= OP_LIT0 && operation <= OP_LIT31) {
        values[(*count)++] = (struct value){operation - OP_LIT0, false};
        return true;
    }
    if (operation == OP_BREG_SP || operation == OP_BREG_RA) {
        uint64_t offset = (uint64_t)read_sleb(reader);
        values[(*count)++] = (struct value){operation == OP_BREG_SP ? offset : pc + offset, operation == OP_BREG_SP};
        return true;
    }
    if (*count < 2) {
        return false;
    }
    const struct value right = values[--*count];
    struct value *left = &values[*count - 1];
    const bool plain = !left->has_sp && !right.has_sp, both = left->has_sp && right.has_sp;
    switch (operation) {
    case OP_PLUS:
        left->number += right.number;
        left->has_sp |= right.has_sp;
        return !both;
    case OP_AND:
        left->number &= right.number;
        return plain;
    case OP_SHL:
        left->number = right.number < 64 ? left->number << right.number : 0;
        return plain;
    case OP_GE:
        left->number = (int64_t)left->number >= (int64_t)right.number;
        return plain;
    default:
        return false;
    }
}

/* Whether an expression comes to rsp + constant at this pc. */
static bool read_sp_expression(struct reader reader, uintptr_t pc, int64_t *offset) {
    struct value values[VALUES_MAX];
    unsigned count = 0;
    while (reader.at < reader.end) {
        if (count == VALUES_MAX || !run_operation((unsigned)read_bytes(&reader, 1), &reader, pc, values, &count)) {
            return false;
        }
    }
    *offset = count == 1 ? (int64_t)values[0].number : 0;
    return count == 1 && values[0].has_sp && !reader.bad;
}

static void run_cfa_expression(struct machine *machine, struct reader *reader) {
    struct reader whole = *reader;
    uint64_t length = read_uleb(&whole);
    bool deref = false;
    int64_t offset = 0;
    whole.end = length <= (uint64_t)(whole.end - whole.at) ? whole.at + length : whole.at;
    bool by_bp = read_bp_expression(reader, &offset, &deref);
    bool by_sp = !by_bp && read_sp_expression(whole, machine->pc, &offset);
    machine->row.cfa_register = by_sp ? REGISTER_SP : REGISTER_BP;
    machine->row.cfa_offset = offset;
    machine->row.cfa_deref = deref && by_bp;
    machine->row.cfa_hard = !by_bp && !by_sp;
}

static void run_expression(struct machine *machine, struct reader *reader, bool value) {
    int64_t offset = 0;
    bool deref = false;
    uint64_t which = read_uleb(reader);
    bool known = read_bp_expression(reader, &offset, &deref);
    set_place(machine, which, known && !deref && !value ? WHERE_BP : WHERE_HARD, offset);
}

static void set_cfa(struct machine *machine, uint64_t which, int64_t offset) {
    machine->row.cfa_register = (unsigned)which;
    machine->row.cfa_offset = offset;
    machine->row.cfa_deref = false;
    machine->row.cfa_hard = which != REGISTER_SP && which != REGISTER_BP;
}

static void restore_place(struct machine *machine, uint64_t which) {
    struct place *place = place_of(machine, which);
    if (place != NULL) {
        *place = which == REGISTER_BP ? machine->initial.bp : machine->initial.ra;
    }
}

/* The instructions with an opcode of their own. */
static void run_extended(struct machine *machine, struct reader *reader, unsigned opcode) {
    const int64_t align = machine->entry->data_align;
    uint64_t which;
    switch (opcode) {
    case 0x00: /* nop */
        return;
    case 0x01: /* set_loc */
        machine->location = (uintptr_t)read_encoded(reader, machine->entry->encoding);
        return;
    case 0x02: /* advance_loc1, 2, 4 */
    case 0x03:
    case 0x04:
        machine->location += (uintptr_t)(read_bytes(reader, (size_t)1 << (opcode - 2)) * machine->entry->code_align);
        return;
    case 0x05: /* offset_extended */
        which = read_uleb(reader);
        set_place(machine, which, WHERE_CFA, (int64_t)read_uleb(reader) * align);
        return;
    case 0x06: /* restore_extended */
        restore_place(machine, read_uleb(reader));
        return;
    case 0x07: /* undefined */
        set_place(machine, read_uleb(reader), WHERE_UNDEFINED, 0);
        return;
    case 0x08: /* same_value */
        set_place(machine, read_uleb(reader), WHERE_SAME, 0);
        return;
    case 0x09: /* register */
        which = read_uleb(reader);
        (void)read_uleb(reader);
        set_place(machine, which, WHERE_HARD, 0);
        return;
    case 0x0a: /* remember_state */
        machine->bad |= machine->saved_count == SAVED_ROWS;
        if (!machine->bad) {
            machine->saved[machine->saved_count++] = machine->row;
        }
        return;
    case 0x0b: /* restore_state */
        machine->bad |= machine->saved_count == 0;
        if (!machine->bad) {
            machine->row = machine->saved[--machine->saved_count];
        }
        return;
    case 0x0c: /* def_cfa */
        which = read_uleb(reader);
        set_cfa(machine, which, (int64_t)read_uleb(reader));
        return;
    case 0x0d: /* def_cfa_register */
        set_cfa(machine, read_uleb(reader), machine->row.cfa_offset);
        return;
    case 0x0e: /* def_cfa_offset */
        set_cfa(machine, machine->row.cfa_register, (int64_t)read_uleb(reader));
        return;
    case 0x0f: /* def_cfa_expression */
        run_cfa_expression(machine, reader);
        return;
    case 0x10: /* expression */
        run_expression(machine, reader, false);
        return;
    case 0x11: /* offset_extended_sf */
        which = read_uleb(reader);
        set_place(machine, which, WHERE_CFA, read_sleb(reader) * align);
        return;
    case 0x12: /* def_cfa_sf */
        which = read_uleb(reader);
        set_cfa(machine, which, read_sleb(reader) * align);
        return;
    case 0x13: /* def_cfa_offset_sf */
        set_cfa(machine, machine->row.cfa_register, read_sleb(reader) * align);
        return;
    case 0x14: /* val_offset */
        which = read_uleb(reader);
        (void)read_uleb(reader);
        set_place(machine, which, WHERE_HARD, 0);
        return;
    case 0x15: /* val_offset_sf */
        which = read_uleb(reader);
        (void)read_sleb(reader);
        set_place(machine, which, WHERE_HARD, 0);
        return;
    case 0x16: /* val_expression */
        run_expression(machine, reader, true);
        return;
    case 0x2e: /* GNU_args_size */
        (void)read_uleb(reader);
        return;
    default:
        machine->bad = true;
    }
}

/* Runs instructions until they describe code behind pc. */
static void run(struct machine *machine, struct reader reader) {
    for (unsigned i = 0; i < INSTRUCTIONS_MAX && reader.at < reader.end && !machine->bad; i++) {
        unsigned byte = (unsigned)read_bytes(&reader, 1);
        unsigned operand = byte & 0x3f;
        switch (byte >> 6) {
        case 1: /* advance_loc */
            machine->location += (uintptr_t)(operand * machine->entry->code_align);
            break;
        case 2: /* offset */
            set_place(machine, operand, WHERE_CFA, (int64_t)read_uleb(&reader) * machine->entry->data_align);
            break;
        case 3: /* restore */
            restore_place(machine, operand);
            break;
        default:
            run_extended(machine, &reader, operand);
        }
        if (machine->location > machine->pc) {
            return;
        }
        machine->bad |= reader.bad;
    }
}

static struct moat_rule rule_of(const struct row *row) {
    const struct moat_rule hard = {.kind = MOAT_RULE_HARD};
    struct moat_rule rule = {.cfa_offset = (int32_t)row->cfa_offset, .bp_offset = (int16_t)row->bp.offset};
    if (row->ra.where == WHERE_UNDEFINED) {
        return (struct moat_rule){.kind = MOAT_RULE_END};
    }
    if (row->cfa_hard || row->ra.where != WHERE_CFA || row->ra.offset != -(int64_t)sizeof(uint64_t) ||
        row->bp.where == WHERE_HARD || rule.cfa_offset != row->cfa_offset || rule.bp_offset != row->bp.offset) {
        return hard;
    }
    rule.kind = row->cfa_deref ? MOAT_RULE_BP_DEREF : row->cfa_register == REGISTER_SP ? MOAT_RULE_SP : MOAT_RULE_BP;
    rule.bp = row->bp.where == WHERE_CFA  ? MOAT_RULE_BP_AT_CFA
              : row->bp.where == WHERE_BP ? MOAT_RULE_BP_AT_BP
                                          : MOAT_RULE_BP_SAME; /* also when undefined: then nobody needs it */
    return rule;
}

/* The code that the C library has signal handlers return to: a call of rt_sigreturn. The kernel's frame lies at rsp then,
 * whatever the unwind information says in expressions. */
static bool returns_from_signal(uintptr_t return_address) {
    static const unsigned char code[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05}; /* mov $15, %rax; syscall */
    return memcmp((const void *)return_address, code, sizeof code) == 0;
}

/* ---- search ------------------------------------------------------------------------------------------------------------- */

struct table_row {
    int32_t start; /* relative to the header, as is the entry */
    int32_t entry;
};

struct moat_rule moat_cfi_rule(uintptr_t pc, const void *header) {
    const struct moat_rule hard = {.kind = MOAT_RULE_HARD};
    const struct moat_rule none = {.kind = MOAT_RULE_NONE};
    const unsigned char *start = header;
    struct reader reader = {.at = start + 4, .end = start + 24};
    if (start[0] != 1 || start[2] == ENCODING_OMITTED || start[3] != ENCODING_TABLE) {
        return hard;
    }
    (void)read_sized(&reader, start[1]);
    uint64_t count = read_sized(&reader, start[2]);
    const struct table_row *table = (const struct table_row *)(const void *)reader.at;
    int64_t wanted = (int64_t)pc - (int64_t)(uintptr_t)start;
    uint64_t low = 0;
    for (uint64_t high = count; low < high;) {
        uint64_t middle = low + (high - low) / 2;
        if (table[middle].start <= wanted) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    struct entry entry = {.signal_frame = false};
    if (reader.bad || low == 0) {
        return none;
    }
    if (!read_function(start + table[low - 1].entry, &entry)) {
        return hard;
    }
    if (pc < entry.start || pc >= entry.end) {
        return none;
    }
    if (entry.signal_frame) {
        return returns_from_signal(pc + 1) ? (struct moat_rule){.kind = MOAT_RULE_SIGNAL} : hard;
    }
    struct machine machine = {.entry = &entry, .pc = pc, .row = {.cfa_hard = true}};
    run(&machine, entry.common);
    machine.initial = machine.row;
    machine.location = entry.start;
    run(&machine, entry.function);
    return machine.bad ? hard : rule_of(&machine.row);
}
