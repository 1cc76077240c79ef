/* The table of modules: which program or shared object an address belongs to.
 * May include: the port's headers, <dlfcn.h>, <link.h>, <elf.h>, <sys/auxv.h>.
 *
 * Entries are only ever added. A thread fills a fresh entry of its own and then makes it the head of its bucket's list
 * with one compare-and-swap; when another thread was first with the same module, the entry is left unused. So nobody
 * waits, not even a signal handler that interrupts an addition. */
#define _GNU_SOURCE
#include "guard/port/linux/module.h"
#include "guard/port/linux/maps.h"
#include "guard/port/linux/state.h"
#include "guard/port/linux/text.h"

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>

enum { MOAT_MODULE_PAGE_BITS = 12, MOAT_NOTE_ALIGNMENT = 4, MOAT_FIRST_PAGE_BYTES = 4096 };

static struct moat_module_state *const own = &moat_port_state.module;

/* What the loader says of the module around an address. */
struct moat_loaded {
    uintptr_t map_start, map_end, bias;
    const void *link_map, *eh_frame, *dynamic;
    const char *name;
    const ElfW(Phdr) * headers; /* NULL: not known yet */
    size_t header_count;
};

/* ---- asking the loader ----------------------------------------------------------------------------------------- */

struct moat_loaded_question {
    uintptr_t address;
    struct moat_loaded *loaded;
};

/* Measures a module by its program headers. Gives whether the address lies in one of its segments. */
static bool moat_loaded_measure(struct moat_loaded *loaded, uintptr_t address) {
    bool inside = false;
    loaded->map_start = UINTPTR_MAX;
    loaded->map_end = 0;
    for (size_t i = 0; i < loaded->header_count; i++) {
        const ElfW(Phdr) *header = &loaded->headers[i];
        uintptr_t start = loaded->bias + header->p_vaddr, end = start + header->p_memsz;
        if (header->p_type == PT_GNU_EH_FRAME)
            loaded->eh_frame = (const void *)start;
        if (header->p_type != PT_LOAD)
            continue;
        loaded->map_start = start < loaded->map_start ? start : loaded->map_start;
        loaded->map_end = end > loaded->map_end ? end : loaded->map_end;
        inside |= address >= start && address < end;
    }
    return inside;
}

static int moat_loaded_visit(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size;
    struct moat_loaded_question *question = context;
    struct moat_loaded found = {.bias = info->dlpi_addr, .name = info->dlpi_name};
    found.headers = info->dlpi_phdr;
    found.header_count = info->dlpi_phnum;
    bool inside = moat_loaded_measure(&found, question->address);
    if (inside)
        *question->loaded = found;
    return inside;
}

/* By the list of modules, which takes the loader's lock: for C libraries without _dl_find_object. */
static bool moat_loaded_by_list(uintptr_t address, struct moat_loaded *loaded) {
    struct moat_loaded_question question = {address, loaded};
    return dl_iterate_phdr(moat_loaded_visit, &question) == 1;
}

/* The program itself by what the kernel says of it, for fully static programs: there _dl_find_object allocates before it is
 * ready to be called, so that our malloc must do without it. False for an address elsewhere. */
static bool moat_loaded_by_kernel(uintptr_t address, struct moat_loaded *loaded) {
    *loaded = (struct moat_loaded){.headers = (const void *)(uintptr_t)getauxval(AT_PHDR)};
    loaded->header_count = loaded->headers ? (size_t)getauxval(AT_PHNUM) : 0;
    for (size_t i = 0; i < loaded->header_count; i++) {
        const ElfW(Phdr) *header = &loaded->headers[i];
        if (header->p_type == PT_INTERP)
            return false;
        /* The headers follow the ELF header at the beginning of the file. */
        if (header->p_type == PT_LOAD && header->p_offset == 0)
            loaded->bias = (uintptr_t)loaded->headers - sizeof(ElfW(Ehdr)) - header->p_vaddr;
    }
    return moat_loaded_measure(loaded, address);
}

/* The whole program when it is static: when it has no loader and we are in it. */
static void moat_module_find_static(uintptr_t *start, uintptr_t *end) {
    struct moat_loaded loaded;
    if (moat_loaded_by_kernel((uintptr_t)&moat_module_find_static, &loaded)) {
        *start = loaded.map_start;
        *end = loaded.map_end;
    }
}

/* Whether a range, looked for once by `find`, holds an address. */
static bool moat_module_range_holds(struct moat_module_range *range, void (*find)(uintptr_t *start, uintptr_t *end),
                                    uintptr_t address) {
    if (!atomic_load_explicit(&range->known, memory_order_acquire)) {
        uintptr_t start = 0, end = 0;
        find(&start, &end); /* the same for every thread that gets here */
        atomic_store_explicit(&range->start, start, memory_order_relaxed);
        atomic_store_explicit(&range->end, end, memory_order_relaxed);
        atomic_store_explicit(&range->known, true, memory_order_release);
    }
    return address >= atomic_load_explicit(&range->start, memory_order_relaxed) &&
           address < atomic_load_explicit(&range->end, memory_order_relaxed);
}

#ifdef DLFO_STRUCT_HAS_EH_DBASE
#pragma weak _dl_find_object

/* The kernel maps the program's own segments where they belong and nothing in the holes between; then the loader tells of
 * each as if it were a module. The program headers tell of all. */
static void moat_loaded_join_segments(struct moat_loaded *loaded, uintptr_t address) {
    struct moat_loaded whole = {.bias = loaded->bias, .headers = (const void *)(uintptr_t)getauxval(AT_PHDR)};
    bool is_program = false;
    whole.header_count = whole.headers ? (size_t)getauxval(AT_PHNUM) : 0;
    for (size_t i = 0; i < whole.header_count && !is_program; i++)
        is_program =
            whole.headers[i].p_type == PT_PHDR && whole.bias + whole.headers[i].p_vaddr == (uintptr_t)whole.headers;
    if (is_program && moat_loaded_measure(&whole, address)) {
        loaded->map_start = whole.map_start;
        loaded->map_end = whole.map_end;
    }
}

static bool moat_loaded_by_object(uintptr_t address, struct moat_loaded *loaded) {
    struct dl_find_object found;
    if (!&_dl_find_object)
        return moat_loaded_by_list(address, loaded);
    if (_dl_find_object((void *)address, &found) != 0)
        return false;
    const struct link_map *map = found.dlfo_link_map;
    *loaded = (struct moat_loaded){.map_start = (uintptr_t)found.dlfo_map_start,
                                   .map_end = (uintptr_t)found.dlfo_map_end,
                                   .bias = map->l_addr,
                                   .link_map = map,
                                   .eh_frame = found.dlfo_eh_frame,
                                   .dynamic = map->l_ld,
                                   .name = map->l_name};
    if (map->l_name == NULL || map->l_name[0] == '\0')
        moat_loaded_join_segments(loaded, address);
    return true;
}
#else
static bool moat_loaded_by_object(uintptr_t address, struct moat_loaded *loaded) {
    return moat_loaded_by_list(address, loaded);
}
#endif

static bool moat_loaded_find(uintptr_t address, struct moat_loaded *loaded) {
    if (moat_module_range_holds(&own->program, moat_module_find_static, address))
        return moat_loaded_by_kernel(address, loaded);
    return moat_loaded_by_object(address, loaded);
}

/* What debuggers go by; its r_ldbase is where the loader is, also when the loader was started by hand. */
#pragma weak _r_debug

/* ---- the build id ---------------------------------------------------------------------------------------------- */

/* Finds the program headers: the ELF header is what the first page of a module's first segment holds, save where a
 * linker script says otherwise. */
static void moat_loaded_headers(struct moat_loaded *loaded) {
    if (loaded->headers)
        return;
    if (loaded->name == NULL || loaded->name[0] == '\0') { /* the program itself, whose headers the kernel names */
        loaded->headers = (const void *)(uintptr_t)getauxval(AT_PHDR);
        loaded->header_count = (size_t)getauxval(AT_PHNUM);
        uintptr_t at = (uintptr_t)loaded->headers;
        if (at >= loaded->map_start && at < loaded->map_end)
            return;
        loaded->headers = NULL; /* started through the loader by hand: the kernel named the loader's */
    }
    const ElfW(Ehdr) *elf = (const void *)loaded->map_start;
    if (loaded->map_end - loaded->map_start < MOAT_FIRST_PAGE_BYTES || memcmp(elf->e_ident, ELFMAG, SELFMAG) != 0 ||
        elf->e_phentsize != sizeof(ElfW(Phdr)) || elf->e_phoff > MOAT_FIRST_PAGE_BYTES ||
        elf->e_phoff + (size_t)elf->e_phnum * sizeof(ElfW(Phdr)) > MOAT_FIRST_PAGE_BYTES)
        return;
    loaded->headers = (const void *)(loaded->map_start + elf->e_phoff);
    loaded->header_count = elf->e_phnum;
}

/* Finds the build id in one note segment in memory; NULL when it is not there. */
static const uint8_t *moat_note_build_id(const uint8_t *notes, size_t bytes, size_t alignment, size_t *id_bytes) {
    size_t at = 0;
    while (bytes - at >= sizeof(ElfW(Nhdr))) {
        ElfW(Nhdr) note;
        memcpy(&note, notes + at, sizeof note);
        size_t name_at = at + sizeof note;
        if (note.n_namesz > bytes - name_at)
            return NULL;
        size_t id_at = name_at + ((note.n_namesz + alignment - 1) & ~(alignment - 1));
        if (id_at > bytes || note.n_descsz > bytes - id_at)
            return NULL;
        if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof "GNU" &&
            memcmp(notes + name_at, "GNU", sizeof "GNU") == 0) {
            *id_bytes = note.n_descsz < MOAT_BUILD_ID_BYTES ? note.n_descsz : MOAT_BUILD_ID_BYTES;
            return notes + id_at;
        }
        at = id_at + ((note.n_descsz + alignment - 1) & ~(alignment - 1));
        if (at > bytes)
            return NULL;
    }
    return NULL;
}

static const uint8_t *moat_loaded_build_id(struct moat_loaded *loaded, size_t *id_bytes) {
    moat_loaded_headers(loaded);
    for (size_t i = 0; loaded->headers && i < loaded->header_count; i++) {
        const ElfW(Phdr) *header = &loaded->headers[i];
        uintptr_t start = loaded->bias + header->p_vaddr;
        if (header->p_type != PT_NOTE || start < loaded->map_start || start > loaded->map_end ||
            header->p_memsz > loaded->map_end - start)
            continue;
        size_t alignment = header->p_align > MOAT_NOTE_ALIGNMENT ? header->p_align : MOAT_NOTE_ALIGNMENT;
        const uint8_t *id = moat_note_build_id((const uint8_t *)start, header->p_memsz, alignment, id_bytes);
        if (id)
            return id;
    }
    return NULL;
}

/* ---- paths ----------------------------------------------------------------------------------------------------- */

struct moat_path_question {
    uintptr_t address;
    char *path;
    size_t most;
};

static bool moat_path_visit(void *context, const struct moat_map *map) {
    struct moat_path_question *question = context;
    if (question->address >= map->end)
        return true;
    if (question->address >= map->start) {
        struct moat_text_buffer text = moat_text_begin(question->path, question->most);
        moat_text_add(&text, map->path);
    }
    return false;
}

/* The path to name a module by. The loader's name is taken when absolute; relative ones hold only for the directory of
 * the moment, and the program has none: those the kernel knows. */
static void moat_loaded_path(const struct moat_loaded *loaded, char *path, size_t most) {
    struct moat_text_buffer text = moat_text_begin(path, most);
    if (loaded->name && loaded->name[0] == '/') {
        moat_text_add(&text, loaded->name);
        return;
    }
    struct moat_path_question question = {loaded->map_start, path, most};
    (void)moat_maps_each(moat_path_visit, &question);
    (void)moat_text_drop_ending(path, " (deleted)");
    if (path[0] == '\0' && loaded->name && loaded->name[0])
        moat_text_add(&text, loaded->name);
    if (path[0] == '\0')
        (void)moat_program_path(path, most);
}

/* Copies a path into the pool. Gives 0, where the pool holds an empty text, when it is full. */
static uint32_t moat_path_keep(const char *path) {
    uint32_t bytes = (uint32_t)strlen(path) + 1;
    if (atomic_load_explicit(&own->path_used, memory_order_relaxed) + bytes >= MOAT_MODULE_PATH_POOL)
        return 0;
    uint32_t at = 1 + atomic_fetch_add_explicit(&own->path_used, bytes, memory_order_relaxed);
    if (at + bytes > MOAT_MODULE_PATH_POOL)
        return 0;
    memcpy(own->path + at, path, bytes);
    return at;
}

static bool moat_path_is_libc(const char *path) {
    static const char *const beginnings[] = {"libc.so.",      "libc-2.",      "ld-linux",       "ld-2.",
                                             "ld.so",         "ld64.so",      "libpthread.so.", "libpthread-2.",
                                             "libstdc++.so.", "libgcc_s.so.", "libc++.so.",     "libc++abi.so."};
    const char *name = moat_text_base_name(path);
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++)
        if (moat_text_starts(name, beginnings[i]))
            return true;
    return false;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

static _Atomic uint16_t *moat_module_bucket(uintptr_t map_start) {
    uintptr_t page = map_start >> MOAT_MODULE_PAGE_BITS;
    return &own->bucket[(page ^ page >> 10) % MOAT_MODULE_BUCKETS];
}

/* Whether an entry describes this very loading of the module. The loader reuses addresses, also of its own records, so
 * the build id is compared in place where it is sure to be readable. */
static bool moat_module_matches(const struct moat_module_entry *entry, const struct moat_loaded *loaded) {
    return entry->map_start == loaded->map_start && entry->map_end == loaded->map_end && entry->bias == loaded->bias &&
           entry->link_map == loaded->link_map && entry->eh_frame == loaded->eh_frame &&
           entry->dynamic == loaded->dynamic &&
           (!entry->build_id_place || memcmp(entry->build_id_place, entry->build_id, entry->build_id_bytes) == 0);
}

/* Looks through a bucket's list from `head` until `end`; both are index + 1. */
static uint16_t moat_module_search(uint16_t head, uint16_t end, const struct moat_loaded *loaded) {
    for (uint16_t at = head; at != 0 && at != end; at = own->entry[at - 1].next)
        if (moat_module_matches(&own->entry[at - 1], loaded))
            return (uint16_t)(at - 1);
    return MOAT_NO_MODULE;
}

static void moat_module_fill(struct moat_module_entry *entry, struct moat_loaded *loaded) {
    char path[MOAT_PATH_BYTES];
    size_t id_bytes = 0;
    const uint8_t *id = moat_loaded_build_id(loaded, &id_bytes);
    moat_loaded_path(loaded, path, sizeof path);
    entry->map_start = loaded->map_start;
    entry->map_end = loaded->map_end;
    entry->bias = loaded->bias;
    entry->link_map = loaded->link_map;
    entry->eh_frame = loaded->eh_frame;
    entry->dynamic = loaded->dynamic;
    entry->path = moat_path_keep(path);
    entry->is_libc = moat_path_is_libc(path);
    entry->build_id_bytes = (uint8_t)id_bytes;
    if (id) {
        memcpy(entry->build_id, id, id_bytes);
        if ((uintptr_t)id + id_bytes <= loaded->map_start + MOAT_FIRST_PAGE_BYTES)
            entry->build_id_place = id;
    }
}

static uint16_t moat_module_add(_Atomic uint16_t *bucket, uint16_t seen, struct moat_loaded *loaded) {
    uint32_t index = MOAT_MODULES_MAX;
    if (atomic_load_explicit(&own->count, memory_order_relaxed) < MOAT_MODULES_MAX)
        index = atomic_fetch_add_explicit(&own->count, 1, memory_order_relaxed);
    if (index >= MOAT_MODULES_MAX) {
        atomic_fetch_add_explicit(&own->lost, 1, memory_order_relaxed);
        return MOAT_NO_MODULE;
    }
    struct moat_module_entry *entry = &own->entry[index];
    moat_module_fill(entry, loaded);
    uint16_t head = seen;
    do {
        /* Entries that came in between, if any, may be the same module's. */
        uint16_t other = moat_module_search(head, seen, loaded);
        if (other != MOAT_NO_MODULE)
            return other;
        entry->next = head;
    } while (!atomic_compare_exchange_strong_explicit(bucket, &head, (uint16_t)(index + 1), memory_order_acq_rel,
                                                      memory_order_acquire));
    return (uint16_t)index;
}

uint16_t moat_module_of(uintptr_t address) {
    struct moat_loaded loaded;
    int kept = errno;
    uint16_t index = MOAT_NO_MODULE;
    if (moat_loaded_find(address, &loaded)) {
        _Atomic uint16_t *bucket = moat_module_bucket(loaded.map_start);
        uint16_t head = atomic_load_explicit(bucket, memory_order_acquire);
        index = moat_module_search(head, 0, &loaded);
        if (index == MOAT_NO_MODULE)
            index = moat_module_add(bucket, head, &loaded);
    }
    errno = kept;
    return index;
}

static const struct moat_module_entry *moat_module_entry(uint16_t index) {
    return index < moat_module_count() ? &own->entry[index] : NULL;
}

void moat_module_get(uint16_t index, struct moat_module *out) {
    const struct moat_module_entry *entry = moat_module_entry(index);
    memset(out, 0, sizeof *out);
    if (!entry)
        return;
    struct moat_text_buffer text = moat_text_begin(out->path, sizeof out->path);
    moat_text_add(&text, own->path + entry->path);
    out->bias = entry->bias;
    out->build_id_bytes = entry->build_id_bytes;
    memcpy(out->build_id, entry->build_id, entry->build_id_bytes);
}

const char *moat_module_path(uint16_t index) {
    const struct moat_module_entry *entry = moat_module_entry(index);
    return entry ? own->path + entry->path : NULL;
}

uint64_t moat_module_bias(uint16_t index) {
    const struct moat_module_entry *entry = moat_module_entry(index);
    return entry ? entry->bias : 0;
}

bool moat_module_is_libc(uint16_t index) {
    const struct moat_module_entry *entry = moat_module_entry(index);
    return entry && entry->is_libc;
}

size_t moat_module_count(void) {
    uint32_t count = atomic_load_explicit(&own->count, memory_order_acquire);
    return count < MOAT_MODULES_MAX ? count : MOAT_MODULES_MAX;
}

size_t moat_module_lost(void) { return atomic_load_explicit(&own->lost, memory_order_relaxed); }

/* ---- Moat itself and the loader -------------------------------------------------------------------------------- */

/* The linker makes these two when a section of that name exists in the program. */
#pragma weak __start_moat_text
#pragma weak __stop_moat_text
extern const char __start_moat_text[] __attribute__((visibility("hidden")));
extern const char __stop_moat_text[] __attribute__((visibility("hidden")));

static bool moat_loaded_is_program(const struct moat_loaded *loaded) {
    return loaded->name == NULL || loaded->name[0] == '\0' ||
           (getauxval(AT_PHDR) >= loaded->map_start && getauxval(AT_PHDR) < loaded->map_end);
}

static void moat_module_find_own(uintptr_t *start, uintptr_t *end) {
    struct moat_loaded loaded;
    if (__start_moat_text) {
        *start = (uintptr_t)__start_moat_text;
        *end = (uintptr_t)__stop_moat_text;
    } else if (moat_loaded_find((uintptr_t)&moat_module_find_own, &loaded) && !moat_loaded_is_program(&loaded)) {
        *start = loaded.map_start;
        *end = loaded.map_end;
    }
}

static void moat_module_find_loader(uintptr_t *start, uintptr_t *end) {
    struct moat_loaded loaded;
    uintptr_t inside = &_r_debug ? _r_debug.r_ldbase : 0;
    if (inside && moat_loaded_find(inside, &loaded) && loaded.name &&
        moat_text_starts(moat_text_base_name(loaded.name), "ld")) {
        *start = loaded.map_start;
        *end = loaded.map_end;
    }
}

bool moat_module_find_table(uintptr_t address, struct moat_module_table *table) {
    struct moat_loaded loaded;
    if (!moat_loaded_find(address, &loaded))
        return false;
    *table = (struct moat_module_table){loaded.map_start, loaded.map_end, loaded.eh_frame};
    return true;
}

void moat_module_get_loader(uintptr_t *start, uintptr_t *end) {
    (void)moat_module_is_loader(0);
    *start = atomic_load_explicit(&own->loader.start, memory_order_relaxed);
    *end = atomic_load_explicit(&own->loader.end, memory_order_relaxed);
}

bool moat_module_is_own(uintptr_t pc) { return moat_module_range_holds(&own->own, moat_module_find_own, pc); }

bool moat_module_is_loader(uintptr_t pc) { return moat_module_range_holds(&own->loader, moat_module_find_loader, pc); }

/* ---- the program ----------------------------------------------------------------------------------------------- */

size_t moat_program_path(char *path, size_t most) {
    long length = moat_syscall(SYS_readlinkat, AT_FDCWD, (long)(uintptr_t) "/proc/self/exe", (long)(uintptr_t)path,
                               (long)most - 1, 0, 0);
    if (!moat_sys_failed(length)) {
        path[length] = '\0';
        (void)moat_text_drop_ending(path, " (deleted)");
        return strlen(path);
    }
    struct moat_text_buffer text = moat_text_begin(path, most);
    const char *executed = (const char *)(uintptr_t)getauxval(AT_EXECFN);
    if (executed)
        moat_text_add(&text, executed);
    return text.length;
}

size_t moat_program_command(char *command, size_t most) {
    static const char cut[] = "...";
    command[0] = '\0';
    long descriptor = moat_sys_open("/proc/self/cmdline", O_RDONLY, 0);
    if (moat_sys_failed(descriptor))
        return 0;
    size_t held = 0;
    long got = 0;
    while (held < most && (got = moat_sys_read(descriptor, command + held, most - held)) > 0)
        held += (size_t)got;
    moat_sys_close(descriptor);
    bool whole = held < most;
    if (!whole)
        held = most - 1;
    while (whole && held && command[held - 1] == '\0')
        held--;
    for (size_t i = 0; i < held; i++)
        if (command[i] == '\0')
            command[i] = ' ';
    command[held] = '\0';
    if (!whole && held >= sizeof cut - 1)
        memcpy(command + held - (sizeof cut - 1), cut, sizeof cut);
    return held;
}
