/* Names frames from DWARF and symbol tables, through elfutils' libdw.
 * May include: guard/cli/cli.h, elfutils and the C library.
 *
 * A module's file is used only when its build id is the one that the process had loaded: a rebuilt program would give
 * wrong lines. Separate debug information is found below /usr/lib/debug; nothing is fetched from the network. What was
 * found for an address is kept, since stacks share most of their frames. */
#include "guard/cli/cli.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUCKETS 4096u
#define LOCATIONS_MAX 24u

/* From the C++ run-time library (Itanium C++ ABI, 3.4); declared here because its header is C++. */
char *__cxa_demangle(const char *mangled, char *buffer, size_t *length, int *status);

struct known_module {
    struct known_module *next;
    char *path;
    uint8_t build_id[MOAT_BUILD_ID_BYTES];
    uint8_t build_id_bytes;
    Dwfl *session;       /* NULL: the file cannot be used */
    Dwfl_Module *module; /* of the session's one file */
    GElf_Addr bias;      /* of the session's addresses over the file's own */
    Dwarf_Die **units;   /* every unit, for files without an address table of them */
    size_t unit_count;
    bool units_listed;
};

/* What an address has for names; kept for good. */
struct known_place {
    struct known_place *next;
    const struct known_module *module;
    uint64_t address; /* in the file's own addresses */
    size_t count;
    struct moat_location locations[LOCATIONS_MAX];
};

struct symbols {
    struct known_module *modules;
    struct known_place *places[BUCKETS];
    char directory[PATH_MAX]; /* the current one, with a slash behind; "" unknown */
};

/* ---- modules ---- */

static bool build_id_agrees(Dwfl_Module *module, const struct moat_module *wanted) {
    const unsigned char *bits = NULL;
    GElf_Addr at = 0;
    int length = dwfl_module_build_id(module, &bits, &at);
    if (length <= 0 || wanted->build_id_bytes == 0) {
        return length <= 0 && wanted->build_id_bytes == 0;
    }
    size_t compared = (size_t)length < MOAT_BUILD_ID_BYTES ? (size_t)length : MOAT_BUILD_ID_BYTES;
    return compared == wanted->build_id_bytes && memcmp(bits, wanted->build_id, compared) == 0;
}

static void open_module(struct known_module *known, const struct moat_module *wanted) {
    static const Dwfl_Callbacks callbacks = {.find_elf = dwfl_build_id_find_elf,
                                             .find_debuginfo = dwfl_standard_find_debuginfo,
                                             .section_address = dwfl_offline_section_address};
    Dwfl *session = wanted->path[0] == '/' ? dwfl_begin(&callbacks) : NULL;
    if (session == NULL) {
        return;
    }
    dwfl_report_begin(session);
    Dwfl_Module *module = dwfl_report_offline(session, "", wanted->path, -1);
    dwfl_report_end(session, NULL, NULL);
    if (module == NULL || dwfl_module_getelf(module, &known->bias) == NULL || !build_id_agrees(module, wanted)) {
        dwfl_end(session);
        return;
    }
    known->session = session;
    known->module = module;
}

static struct known_module *module_of(struct symbols *symbols, const struct moat_module *wanted) {
    for (struct known_module *known = symbols->modules; known != NULL; known = known->next) {
        if (known->build_id_bytes == wanted->build_id_bytes && strcmp(known->path, wanted->path) == 0 &&
            memcmp(known->build_id, wanted->build_id, wanted->build_id_bytes) == 0) {
            return known;
        }
    }
    struct known_module *known = moat_cli_allocate(sizeof *known);
    known->path = moat_cli_copy(wanted->path);
    known->build_id_bytes = wanted->build_id_bytes;
    memcpy(known->build_id, wanted->build_id, wanted->build_id_bytes);
    known->next = symbols->modules;
    symbols->modules = known;
    open_module(known, wanted);
    return known;
}

/* ---- units: which one covers an address ---- */

static void list_units(struct known_module *known) {
    Dwarf_Addr bias = 0;
    Dwarf_Die *unit = NULL;
    size_t room = 0;
    known->units_listed = true;
    while ((unit = dwfl_module_nextcu(known->module, unit, &bias)) != NULL) {
        if (known->unit_count == room) {
            room = 2 * room + 64;
            known->units = moat_cli_resize(known->units, room * sizeof(Dwarf_Die *));
        }
        known->units[known->unit_count++] = unit;
    }
}

/* The unit of an address in the session's terms. Clang writes no table of units' addresses, so without an answer from
 * it every unit is asked. */
static Dwarf_Die *unit_of(struct known_module *known, Dwarf_Addr address, Dwarf_Addr *bias) {
    Dwarf_Die *unit = dwfl_module_addrdie(known->module, address, bias);
    if (unit != NULL || dwfl_module_getdwarf(known->module, bias) == NULL) {
        return unit;
    }
    if (!known->units_listed) {
        list_units(known);
    }
    for (size_t i = 0; i < known->unit_count; i++) {
        if (dwarf_haspc(known->units[i], address - *bias) > 0) {
            return known->units[i];
        }
    }
    return NULL;
}

/* The entry with the functions: with split DWARF the unit in the file is a mere skeleton. */
static Dwarf_Die *functions_of(Dwarf_Die *unit, Dwarf_Die *split) {
    Dwarf_Half version = 0;
    uint8_t type = 0;
    Dwarf_Die skeleton;
    memset(split, 0, sizeof *split);
    bool is_split = dwarf_cu_info(unit->cu, &version, &type, &skeleton, split, NULL, NULL, NULL) == 0 &&
                    type == DW_UT_skeleton && split->addr != NULL;
    return is_split ? split : unit;
}

/* ---- names ---- */

/* The one name that is never written out in source but by far the longest in reports. */
static void shorten_string(char *name) {
    static const char whole[] = "std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >";
    static const char brief[] = "std::string";
    char *found = name;
    while ((found = strstr(found, whole)) != NULL) {
        memcpy(found, brief, sizeof brief - 1);
        found += sizeof brief - 1;
        const char *rest = found + (sizeof whole - sizeof brief);
        rest += strncmp(rest, " >", 2) == 0; /* the blank only parted two brackets */
        memmove(found, rest, strlen(rest) + 1);
    }
}

static const char *demangled(const char *name) {
    int status = 0;
    bool mangled = name[0] == '_' && (name[1] == 'Z' || name[1] == 'R');
    char *plain = mangled ? __cxa_demangle(name, NULL, NULL, &status) : NULL;
    if (plain == NULL) {
        return moat_cli_copy(name);
    }
    shorten_string(plain);
    return plain;
}

static const char *name_of(Dwarf_Die *die) {
    Dwarf_Attribute attribute;
    const char *name = NULL;
    if (dwarf_attr_integrate(die, DW_AT_linkage_name, &attribute) != NULL ||
        dwarf_attr_integrate(die, DW_AT_MIPS_linkage_name, &attribute) != NULL) {
        name = dwarf_formstring(&attribute);
    }
    name = name != NULL ? name : dwarf_diename(die);
    return name != NULL ? demangled(name) : NULL;
}

static const char *without_dot_slash(const char *path) {
    while (path[0] == '.' && path[1] == '/') {
        path += 2;
        path += strspn(path, "/");
    }
    return path;
}

/* A file as the human would name it: relative to the current directory when it lies below, else as DWARF has it. */
static const char *shown_file(const struct symbols *symbols, Dwarf_Die *unit, const char *file) {
    Dwarf_Attribute attribute;
    const char *base = dwarf_attr(unit, DW_AT_comp_dir, &attribute) != NULL ? dwarf_formstring(&attribute) : NULL;
    file = without_dot_slash(file);
    char *whole = file[0] != '/' && base != NULL ? moat_cli_join("%s/%s", base, file) : moat_cli_copy(file);
    size_t length = strlen(symbols->directory);
    bool below = length > 0 && strncmp(whole, symbols->directory, length) == 0;
    char *shown = moat_cli_copy(below ? without_dot_slash(whole + length) : file);
    free(whole);
    return shown;
}

/* ---- an address's locations ---- */

/* Where a piece of code is: file and line of an instruction, or of the call that was replaced by what is inlined there.
 */
struct spot {
    const char *file;
    uint32_t line;
};

static struct spot spot_of_address(const struct symbols *symbols, Dwarf_Die *unit, Dwarf_Addr address) {
    struct spot spot = {NULL, 0};
    Dwarf_Line *row = dwarf_getsrc_die(unit, address);
    const char *file = row != NULL ? dwarf_linesrc(row, NULL, NULL) : NULL;
    int line = 0;
    if (file != NULL) {
        spot.file = shown_file(symbols, unit, file);
        spot.line = dwarf_lineno(row, &line) == 0 && line > 0 ? (uint32_t)line : 0;
    }
    return spot;
}

static struct spot spot_of_call(const struct symbols *symbols, Dwarf_Die *unit, Dwarf_Die *inlined) {
    struct spot spot = {NULL, 0};
    Dwarf_Attribute attribute;
    Dwarf_Files *files = NULL;
    Dwarf_Word number = 0;
    size_t count = 0;
    if (dwarf_getsrcfiles(unit, &files, &count) == 0 &&
        dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &attribute), &number) == 0) {
        const char *file = dwarf_filesrc(files, (size_t)number, NULL, NULL);
        spot.file = file != NULL ? shown_file(symbols, unit, file) : NULL;
    }
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &attribute), &number) == 0) {
        spot.line = (uint32_t)number;
    }
    return spot;
}

/* The entries that physically contain an address, innermost first; the caller frees them. dwarf_getscopes() answers
 * with lexical scopes, in which an inlined function's parents are those of its definition, so the innermost one's own
 * parents are asked for. */
static int scopes_of(Dwarf_Die *functions, Dwarf_Addr address, Dwarf_Die **scopes) {
    Dwarf_Die *lexical = NULL;
    int count = dwarf_getscopes(functions, address, &lexical);
    if (count <= 0) {
        return 0;
    }
    Dwarf_Die innermost = lexical[0];
    free(lexical);
    count = dwarf_getscopes_die(&innermost, scopes);
    return count > 0 ? count : 0;
}

static void name_by_unit(const struct symbols *symbols, Dwarf_Die *unit, Dwarf_Addr address,
                         struct known_place *place) {
    Dwarf_Die split;
    Dwarf_Die *scopes = NULL;
    struct spot spot = spot_of_address(symbols, unit, address);
    int scope_count = scopes_of(functions_of(unit, &split), address, &scopes);
    for (int i = 0; i < scope_count && place->count < LOCATIONS_MAX; i++) {
        int tag = dwarf_tag(&scopes[i]);
        if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_subprogram && tag != DW_TAG_entry_point) {
            continue;
        }
        bool inlined = tag == DW_TAG_inlined_subroutine;
        place->locations[place->count++] = (struct moat_location){
            .function = name_of(&scopes[i]), .file = spot.file, .line = spot.line, .inlined = inlined};
        if (!inlined) {
            break;
        }
        spot = spot_of_call(symbols, unit, &scopes[i]);
    }
    free(scopes);
    if (place->count == 0 && spot.file != NULL) {
        place->locations[place->count++] = (struct moat_location){.file = spot.file, .line = spot.line};
    }
}

/* Names what DWARF left open, from the symbol tables. A symbol counts only when it covers the address. */
static void name_by_symbol(struct known_module *known, Dwarf_Addr address, uint64_t behind, struct known_place *place) {
    GElf_Off offset = 0;
    GElf_Sym symbol;
    const char *name = dwfl_module_addrinfo(known->module, address, &offset, &symbol, NULL, NULL, NULL);
    if (name == NULL || (symbol.st_size != 0 && offset >= symbol.st_size)) {
        return;
    }
    place->count = place->count > 0 ? place->count : 1;
    struct moat_location *outermost = &place->locations[place->count - 1];
    outermost->function = outermost->function != NULL ? outermost->function : demangled(name);
    outermost->function_offset = offset + behind;
}

static void name_place(const struct symbols *symbols, struct known_module *known, uint64_t behind,
                       struct known_place *place) {
    Dwarf_Addr bias = 0;
    Dwarf_Addr address = place->address + known->bias;
    Dwarf_Die *unit = unit_of(known, address, &bias);
    if (unit != NULL) {
        name_by_unit(symbols, unit, address - bias, place);
    }
    name_by_symbol(known, address, behind, place);
}

static size_t locate(void *context, const struct moat_frame *frame, const struct moat_module *module,
                     struct moat_location *locations, size_t most) {
    struct symbols *symbols = context;
    struct known_module *known = module != NULL ? module_of(symbols, module) : NULL;
    if (known == NULL || known->module == NULL) {
        return 0;
    }
    /* A return address may be the next line's, or beyond the function's end: what called lies before it. */
    uint64_t behind = frame->exact ? 0 : 1;
    uint64_t address = frame->pc - behind - module->bias;
    struct known_place **bucket = &symbols->places[(address ^ (uintptr_t)known >> 4) % BUCKETS];
    struct known_place *place = *bucket;
    while (place != NULL && (place->module != known || place->address != address)) {
        place = place->next;
    }
    if (place == NULL) {
        place = moat_cli_allocate(sizeof *place);
        place->module = known;
        place->address = address;
        place->next = *bucket;
        *bucket = place;
        name_place(symbols, known, behind, place);
    }
    size_t count = place->count < most ? place->count : most;
    memcpy(locations, place->locations, count * sizeof *locations);
    return count;
}

struct moat_symboliser moat_symbols_create(void) {
    struct symbols *symbols = moat_cli_allocate(sizeof *symbols);
    unsetenv("DEBUGINFOD_URLS");
    if (getcwd(symbols->directory, sizeof symbols->directory - 1) != NULL && strcmp(symbols->directory, "/") != 0) {
        strcat(symbols->directory, "/"); /* one byte was kept free for it */
    } else {
        symbols->directory[0] = '\0';
    }
    return (struct moat_symboliser){.locate = locate, .context = symbols};
}
