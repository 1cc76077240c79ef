/* Reading /proc/self/maps, and what lies at an address.
 * May include: the port's headers, <link.h>. */
#define _GNU_SOURCE
#include "guard/port/linux/maps.h"
#include "guard/port/linux/module.h"
#include "guard/port/linux/state.h"
#include "guard/port/linux/symtab.h"
#include "guard/port/linux/text.h"

/* A line is some 75 characters and a path of at most 4096, which may be quoted ("\012" for a newline). Longer ones are
 * cut. */
enum { MOAT_MAPS_BUFFER_BYTES = 4608 };

/* ---- the list -------------------------------------------------------------------------------------------------- */

/* Reads digits of a base; *at moves behind them. */
static uint64_t moat_maps_number(const char **at, unsigned base) {
    uint64_t value = 0;
    for (;; (*at)++) {
        unsigned char c = (unsigned char)**at;
        unsigned digit = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                                                : base;
        if (digit >= base)
            return value;
        value = value * base + digit;
    }
}

static void moat_maps_skip(const char **at, char what) {
    while (**at == what)
        (*at)++;
}

/* Undoes the kernel's quoting of newlines. */
static void moat_maps_unquote(char *path) {
    char *to = path;
    for (const char *from = path; *from; to++) {
        bool quoted = from[0] == '\\' && from[1] == '0' && from[2] == '1' && from[3] == '2';
        *to = quoted ? '\n' : *from;
        from += quoted ? 4 : 1;
    }
    *to = '\0';
}

/* Takes a line apart: "start-end rwxp offset major:minor inode    path". False when it is none. */
static bool moat_maps_parse(char *line, struct moat_map *map) {
    const char *at = line;
    map->start = (uintptr_t)moat_maps_number(&at, 16);
    if (*at++ != '-')
        return false;
    map->end = (uintptr_t)moat_maps_number(&at, 16);
    if (*at++ != ' ' || strlen(at) < 5)
        return false;
    map->readable = at[0] == 'r';
    map->writable = at[1] == 'w';
    map->executable = at[2] == 'x';
    map->shared = at[3] == 's';
    at += 5;
    map->offset = moat_maps_number(&at, 16);
    moat_maps_skip(&at, ' ');
    (void)moat_maps_number(&at, 16); /* device */
    if (*at == ':')
        at++;
    (void)moat_maps_number(&at, 16);
    moat_maps_skip(&at, ' ');
    map->inode = moat_maps_number(&at, 10);
    moat_maps_skip(&at, ' ');
    char *path = line + (at - line);
    moat_maps_unquote(path);
    map->path = path;
    return map->end > map->start;
}

bool moat_maps_each(bool (*each)(void *context, const struct moat_map *map), void *context) {
    char buffer[MOAT_MAPS_BUFFER_BYTES + 1];
    long descriptor = moat_sys_open("/proc/self/maps", O_RDONLY, 0);
    if (moat_sys_failed(descriptor))
        return false;
    size_t held = 0;
    bool cutting = false, going = true; /* cutting: the rest of an overlong line is passed over */
    long got;
    while (going && (got = moat_sys_read(descriptor, buffer + held, MOAT_MAPS_BUFFER_BYTES - held)) > 0) {
        held += (size_t)got;
        char *line = buffer, *end;
        while (going && (end = memchr(line, '\n', held - (size_t)(line - buffer)))) {
            struct moat_map map;
            *end = '\0';
            if (!cutting && moat_maps_parse(line, &map))
                going = each(context, &map);
            cutting = false;
            line = end + 1;
        }
        held -= (size_t)(line - buffer);
        memmove(buffer, line, held);
        if (held == MOAT_MAPS_BUFFER_BYTES) {
            struct moat_map map;
            buffer[held] = '\0';
            if (going && !cutting && moat_maps_parse(buffer, &map))
                going = each(context, &map);
            cutting = true;
            held = 0;
        }
    }
    moat_sys_close(descriptor);
    return going ? got == 0 : true;
}

/* ---- what lies at an address ----------------------------------------------------------------------------------- */

struct moat_place_question {
    uintptr_t address;
    uintptr_t here; /* an address on the calling thread's stack */
    bool found;
    bool with_here; /* both lie in one mapping */
    struct moat_map map;
    struct moat_text_buffer path;
};

static bool moat_place_look(void *context, const struct moat_map *map) {
    struct moat_place_question *question = context;
    if (question->address < map->start)
        return false; /* in address order: it is not mapped */
    if (question->address >= map->end)
        return true;
    question->found = true;
    question->with_here = question->here >= map->start && question->here < map->end;
    question->map = *map;
    question->map.path = NULL;
    moat_text_add(&question->path, map->path);
    return false;
}

/* "counter+0x4 in /usr/bin/prog" */
static void moat_place_name_symbol(uintptr_t address, uint16_t index, struct moat_text_buffer *name) {
    struct moat_module module;
    char symbol[MOAT_SYMTAB_NAME_BYTES];
    moat_module_get(index, &module);
    if (moat_symtab_name_data(address, &module, symbol, sizeof symbol)) {
        moat_text_add(name, symbol);
        moat_text_add(name, " in ");
    }
    moat_text_add(name, module.path);
}

enum moat_place moat_maps_classify(uintptr_t address, char *name, size_t name_bytes) {
    char path[MOAT_PATH_BYTES];
    struct moat_place_question question = {
        .address = address, .here = (uintptr_t)&question, .path = moat_text_begin(path, sizeof path)};
    struct moat_text_buffer text = moat_text_begin(name, name_bytes);
    if (!moat_maps_each(moat_place_look, &question))
        return MOAT_PLACE_UNKNOWN;
    if (!question.found)
        return MOAT_PLACE_UNMAPPED;
    if (strcmp(path, "[stack]") == 0) {
        moat_text_add(&text, "the main thread's stack");
        return MOAT_PLACE_STACK;
    }
    if (question.with_here && address >= question.here) {
        moat_text_add(&text, "the calling thread's stack");
        return MOAT_PLACE_STACK;
    }
    uint16_t module = moat_module_of(address);
    if (module != MOAT_NO_MODULE) {
        moat_place_name_symbol(address, module, &text);
        /* Data that was made read-only after relocation counts as a constant, that is as code. */
        return question.map.writable ? MOAT_PLACE_GLOBAL : MOAT_PLACE_CODE;
    }
    moat_text_add(&text, path);
    return question.map.executable ? MOAT_PLACE_CODE : MOAT_PLACE_MAPPED;
}
