/* Names from the symbol tables of the modules' files: see symtab.h.
 * May include: the port's headers, <elf.h>, <link.h> (for ElfW).
 *
 * Files are read in pieces with pread instead of being mapped: a file that is cut while it is looked at then gives a
 * short read, where a mapping would give SIGBUS. Every offset and size in it is checked against the file before it is
 * used. */
#include "guard/port/linux/symtab.h"
#include "guard/port/linux/state.h"
#include "guard/port/linux/text.h"

#include <elf.h>
#include <link.h>

enum {
    MOAT_SECTIONS_MAX = 1 << 16,
    MOAT_NOTES_BYTES_MAX = 4096,
    MOAT_SYMBOL_NAME_BYTES = 400,   /* longer ones are cut */
    MOAT_SYMBOL_REACH_BYTES = 4096, /* how far a symbol without a size is believed */
    MOAT_OFFSET_BASE = 16
};

static struct moat_symtab_state *const own = &moat_port_state.symtab;

/* ---- the file -------------------------------------------------------------------------------------------------- */

static bool moat_symtab_within(const struct moat_symtab_file *file, uint64_t offset, uint64_t bytes) {
    return offset <= file->file_bytes && bytes <= file->file_bytes - offset;
}

/* Whether a segment of notes holds the build id the module was loaded with. */
static bool moat_symtab_notes_match(long descriptor, const ElfW(Phdr) * header, const struct moat_module *module) {
    size_t bytes = header->p_filesz < MOAT_NOTES_BYTES_MAX ? (size_t)header->p_filesz : MOAT_NOTES_BYTES_MAX;
    size_t alignment = header->p_align == 8 ? 8 : 4, at = 0;
    if (!moat_sys_read_at(descriptor, own->chunk, bytes, header->p_offset))
        return false;
    while (bytes - at >= sizeof(ElfW(Nhdr))) {
        ElfW(Nhdr) note;
        memcpy(&note, own->chunk + at, sizeof note);
        at += sizeof note;
        size_t name_bytes = (note.n_namesz + alignment - 1) & ~(alignment - 1);
        if (note.n_namesz > bytes || name_bytes > bytes - at)
            return false;
        bool is_build_id = note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof "GNU" &&
                           memcmp(own->chunk + at, "GNU", sizeof "GNU") == 0;
        at += name_bytes;
        if (note.n_descsz > bytes - at)
            return false;
        if (is_build_id)
            return note.n_descsz >= module->build_id_bytes &&
                   memcmp(own->chunk + at, module->build_id, module->build_id_bytes) == 0;
        size_t data_bytes = (note.n_descsz + alignment - 1) & ~(alignment - 1);
        if (data_bytes > bytes - at)
            return false;
        at += data_bytes;
    }
    return false;
}

static bool moat_symtab_is_the_module(long descriptor, const struct moat_symtab_file *file, const ElfW(Ehdr) * elf,
                                      const struct moat_module *module) {
    if (module->build_id_bytes == 0)
        return true; /* nothing to compare: a file of that name is the best there is */
    for (size_t i = 0; i < elf->e_phnum; i++) {
        ElfW(Phdr) header;
        uint64_t at = elf->e_phoff + i * sizeof header;
        if (!moat_symtab_within(file, at, sizeof header) || !moat_sys_read_at(descriptor, &header, sizeof header, at))
            return false;
        if (header.p_type == PT_NOTE && moat_symtab_notes_match(descriptor, &header, module))
            return true;
    }
    return false;
}

static bool moat_symtab_section(long descriptor, const struct moat_symtab_file *file, const ElfW(Ehdr) * elf,
                                size_t index, ElfW(Shdr) * section) {
    uint64_t at = (uint64_t)elf->e_shoff + index * sizeof *section;
    return index < elf->e_shnum && moat_symtab_within(file, at, sizeof *section) &&
           moat_sys_read_at(descriptor, section, sizeof *section, at);
}

/* Finds the symbol table, the full one rather than the dynamic one, and its names. */
static bool moat_symtab_tables(long descriptor, struct moat_symtab_file *file, const ElfW(Ehdr) * elf) {
    ElfW(Shdr) section, symbols = {.sh_type = SHT_NULL};
    if (elf->e_shentsize != sizeof section)
        return false;
    for (size_t i = 0; moat_symtab_section(descriptor, file, elf, i, &section); i++)
        if (section.sh_type == SHT_SYMTAB || (section.sh_type == SHT_DYNSYM && symbols.sh_type == SHT_NULL))
            symbols = section;
    if (symbols.sh_type == SHT_NULL || symbols.sh_entsize != sizeof(ElfW(Sym)) ||
        !moat_symtab_section(descriptor, file, elf, symbols.sh_link, &section) || section.sh_type != SHT_STRTAB ||
        !moat_symtab_within(file, symbols.sh_offset, symbols.sh_size) ||
        !moat_symtab_within(file, section.sh_offset, section.sh_size))
        return false;
    file->symbols_offset = symbols.sh_offset;
    file->symbols_bytes = symbols.sh_size - symbols.sh_size % sizeof(ElfW(Sym));
    file->names_offset = section.sh_offset;
    file->names_bytes = section.sh_size;
    return true;
}

static bool moat_symtab_study(long descriptor, struct moat_symtab_file *file, const struct moat_module *module) {
    ElfW(Ehdr) elf;
    struct moat_file_identity identity = moat_sys_identify(descriptor);
    file->file_bytes = identity.size_bytes;
    const unsigned char class = sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32;
    return identity.known && moat_symtab_within(file, 0, sizeof elf) &&
           moat_sys_read_at(descriptor, &elf, sizeof elf, 0) && memcmp(elf.e_ident, ELFMAG, SELFMAG) == 0 &&
           elf.e_ident[EI_CLASS] == class && elf.e_phentsize == sizeof(ElfW(Phdr)) &&
           moat_symtab_is_the_module(descriptor, file, &elf, module) && moat_symtab_tables(descriptor, file, &elf);
}

static long moat_symtab_open_path(const char *path, struct moat_symtab_file *file, const struct moat_module *module) {
    /* O_NONBLOCK: what bears the name by now may be a pipe. */
    long descriptor = moat_sys_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (moat_sys_failed(descriptor))
        return -1;
    if (moat_symtab_study(descriptor, file, module))
        return descriptor;
    moat_sys_close(descriptor);
    return -1;
}

/* Opens a module's file. The program's own is also found when it was moved or replaced since. */
static long moat_symtab_open(const struct moat_module *module, struct moat_symtab_file *file) {
    long descriptor = moat_symtab_open_path(module->path, file, module);
    if (descriptor < 0 && module->build_id_bytes)
        descriptor = moat_symtab_open_path("/proc/self/exe", file, module);
    return descriptor;
}

/* ---- the search ------------------------------------------------------------------------------------------------ */

static bool moat_symbol_is_wanted(const ElfW(Sym) * symbol, bool data) {
    unsigned type = symbol->st_info & 0xf;
    if (symbol->st_shndx == SHN_UNDEF || symbol->st_shndx == SHN_ABS || symbol->st_name == 0)
        return false;
    return type == STT_FUNC || type == STT_GNU_IFUNC || (data && type == STT_OBJECT) || (!data && type == STT_NOTYPE);
}

/* Whether one of two symbols that both fit an address names it better: the one that starts nearer, then the one with a
 * size, then the global one, since that is the name the source uses. */
static bool moat_symbol_is_better(const ElfW(Sym) * symbol, const ElfW(Sym) * best) {
    if (best->st_name == 0 || symbol->st_value != best->st_value)
        return best->st_name == 0 || symbol->st_value > best->st_value;
    if ((symbol->st_size != 0) != (best->st_size != 0))
        return symbol->st_size != 0;
    return (symbol->st_info >> 4) == STB_GLOBAL && (best->st_info >> 4) != STB_GLOBAL;
}

static bool moat_symbol_covers(const ElfW(Sym) * symbol, uint64_t address) {
    uint64_t reach = symbol->st_size ? symbol->st_size : MOAT_SYMBOL_REACH_BYTES;
    return address >= symbol->st_value && address - symbol->st_value < reach;
}

/* Finds the symbol that covers an address as linked. */
static bool moat_symtab_search(long descriptor, const struct moat_symtab_file *file, uint64_t address, bool data,
                               ElfW(Sym) * best) {
    const size_t chunk_bytes = sizeof own->chunk - sizeof own->chunk % sizeof(ElfW(Sym));
    memset(best, 0, sizeof *best);
    for (uint64_t at = 0; at < file->symbols_bytes; at += chunk_bytes) {
        uint64_t left = file->symbols_bytes - at;
        size_t bytes = left < chunk_bytes ? (size_t)left : chunk_bytes;
        if (!moat_sys_read_at(descriptor, own->chunk, bytes, file->symbols_offset + at))
            return false;
        for (size_t i = 0; i < bytes; i += sizeof(ElfW(Sym))) {
            ElfW(Sym) symbol;
            memcpy(&symbol, own->chunk + i, sizeof symbol);
            if (moat_symbol_covers(&symbol, address) && moat_symbol_is_wanted(&symbol, data) &&
                moat_symbol_is_better(&symbol, best))
                *best = symbol;
        }
    }
    return best->st_name != 0;
}

/* The search with a memory: stacks of one report share most of their frames. */
static bool moat_symtab_find(long descriptor, const struct moat_symtab_file *file, const struct moat_module *module,
                             uint64_t address, bool data, ElfW(Sym) * symbol) {
    uint64_t build = 0;
    memcpy(&build, module->build_id, sizeof build);
    struct moat_symtab_answer *answer = &own->answer[(address ^ address >> 6) % MOAT_SYMTAB_ANSWERS];
    bool known = module->build_id_bytes && answer->address == address && answer->build == build && answer->data == data;
    if (known) {
        symbol->st_value = (ElfW(Addr))answer->value;
        symbol->st_name = answer->name;
    } else if (!moat_symtab_search(descriptor, file, address, data, symbol)) {
        symbol->st_name = 0;
    }
    *answer = (struct moat_symtab_answer){address, build, symbol->st_value, symbol->st_name, data};
    return symbol->st_name != 0;
}

/* Appends a symbol's name. */
static bool moat_symtab_add_name(long descriptor, const struct moat_symtab_file *file, uint32_t name,
                                 struct moat_text_buffer *text) {
    char letters[MOAT_SYMBOL_NAME_BYTES];
    if (name >= file->names_bytes)
        return false;
    uint64_t left = file->names_bytes - name;
    size_t bytes = left < sizeof letters ? (size_t)left : sizeof letters;
    if (!moat_sys_read_at(descriptor, letters, bytes, file->names_offset + name))
        return false;
    size_t length = strnlen(letters, bytes);
    moat_text_add_bytes(text, letters, length);
    return length != 0;
}

/* Writes the name of the symbol that covers an address, and tells how far into it the address is.
 * `before` is subtracted for the search: a return address may already belong to the next function. */
static size_t moat_symtab_name(uint64_t address, unsigned before, bool data, const struct moat_module *module,
                               char *name, size_t name_bytes, uint64_t *offset) {
    struct moat_symtab_file file = {0};
    struct moat_text_buffer text = moat_text_begin(name, name_bytes);
    if (module->path[0] != '/')
        return 0;
    long descriptor = moat_symtab_open(module, &file);
    if (descriptor < 0)
        return 0;
    ElfW(Sym) symbol = {0};
    uint64_t linked = address - module->bias;
    if (moat_symtab_find(descriptor, &file, module, linked - before, data, &symbol) &&
        moat_symtab_add_name(descriptor, &file, symbol.st_name, &text))
        *offset = linked - symbol.st_value;
    moat_sys_close(descriptor);
    return text.length;
}

/* ---- what others call ------------------------------------------------------------------------------------------ */

static size_t moat_symtab_locate(void *context, const struct moat_frame *frame, const struct moat_module *module,
                                 struct moat_location *locations, size_t most) {
    (void)context;
    uint64_t offset = 0;
    if (!module || most == 0 ||
        moat_symtab_name(frame->pc, frame->exact ? 0 : 1, false, module, own->name, sizeof own->name, &offset) == 0)
        return 0;
    memset(&locations[0], 0, sizeof locations[0]);
    locations[0].function = own->name;
    locations[0].function_offset = offset;
    return 1;
}

const struct moat_symboliser *moat_symtab_symboliser(void) {
    static const struct moat_symboliser symboliser = {moat_symtab_locate, NULL};
    return &symboliser;
}

size_t moat_symtab_name_data(uintptr_t address, const struct moat_module *module, char *name, size_t name_bytes) {
    uint64_t offset = 0;
    struct moat_text_buffer text = {name, name_bytes,
                                    moat_symtab_name(address, 0, true, module, name, name_bytes, &offset)};
    if (text.length && offset) {
        moat_text_add(&text, "+0x");
        moat_text_add_number(&text, offset, MOAT_OFFSET_BASE);
    }
    return text.length;
}
