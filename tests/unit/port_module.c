/* Tests of the table of modules and of names from symbol tables, against the loader, nm, readelf and damaged files.
 * May include: tests/test.h, the port, POSIX. */
#define _GNU_SOURCE
#include "guard/port/linux/module.h"
#include "guard/port/linux/symtab.h"
#include "tests/test.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *program_path(void) {
    static char path[512];
    long got = readlink("/proc/self/exe", path, sizeof path - 1);
    CHECK(got > 0);
    return path;
}

/* ---- modules --------------------------------------------------------------------------------------------------- */

/* The build id as readelf prints it. */
static void check_build_id(const struct moat_module *module) {
    char command[700], line[256], found[64] = "", ours[64] = "";
    snprintf(command, sizeof command, "readelf -nW '%s' 2>/dev/null", module->path);
    FILE *pipe = popen(command, "r");
    CHECK(pipe != NULL);
    while (fgets(line, sizeof line, pipe)) {
        const char *at = strstr(line, "Build ID: ");
        if (at)
            sscanf(at, "Build ID: %63s", found);
    }
    pclose(pipe);
    for (size_t i = 0; i < module->build_id_bytes; i++)
        sprintf(ours + 2 * i, "%02x", module->build_id[i]);
    CHECK_TEXT(ours, found);
}

static int check_against_loader(struct dl_phdr_info *info, size_t size, void *count) {
    (void)size;
    struct moat_module module;
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_LOAD)
            continue;
        uintptr_t start = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
        uint16_t index = moat_module_of(start), again = moat_module_of(start + info->dlpi_phdr[i].p_memsz - 1);
        CHECK(index != MOAT_NO_MODULE);
        CHECK_EQ(index, again);
        moat_module_get(index, &module);
        CHECK_EQ(module.bias, info->dlpi_addr);
        CHECK_EQ(moat_module_bias(index), info->dlpi_addr);
        CHECK_TEXT(module.path, moat_module_path(index));
        if (info->dlpi_name[0] == '/')
            CHECK_TEXT(module.path, info->dlpi_name);
        else if (info->dlpi_name[0] == '\0')
            CHECK_TEXT(module.path, program_path());
    }
    if (module.path[0] == '/')
        check_build_id(&module);
    ++*(size_t *)count;
    return 0;
}

MOAT_TEST(port_module, agrees_with_the_loader_about_every_module) {
    size_t count = 0;
    dl_iterate_phdr(check_against_loader, &count);
    CHECK(count >= 4);
    CHECK_EQ(moat_module_count(), count);
    dl_iterate_phdr(check_against_loader, &count);
    CHECK_EQ(moat_module_count() * 2, count); /* nothing was recorded twice */
    CHECK_EQ(moat_module_lost(), 0u);
}

MOAT_TEST(port_module, knows_what_is_none) {
    struct moat_module module;
    int local;
    void *heap = malloc(1);
    errno = 77;
    CHECK_EQ(moat_module_of(0), MOAT_NO_MODULE);
    CHECK_EQ(moat_module_of(UINTPTR_MAX), MOAT_NO_MODULE);
    CHECK_EQ(moat_module_of((uintptr_t)&local), MOAT_NO_MODULE);
    CHECK_EQ(moat_module_of((uintptr_t)heap), MOAT_NO_MODULE);
    CHECK_EQ(errno, 77);
    free(heap);
    moat_module_get(MOAT_NO_MODULE, &module);
    CHECK(module.path[0] == '\0' && module.bias == 0 && module.build_id_bytes == 0);
    CHECK(moat_module_path(4095) == NULL);
    CHECK(!moat_module_is_libc(MOAT_NO_MODULE));
}

MOAT_TEST(port_module, tells_the_c_library_and_the_loader) {
    uint16_t program = moat_module_of((uintptr_t)&check_build_id),
             libc = moat_module_of((uintptr_t)dlsym(RTLD_DEFAULT, "qsort"));
    uint16_t loader = moat_module_of(getauxval(AT_BASE));
    CHECK(!moat_module_is_libc(program) && moat_module_is_libc(libc) && moat_module_is_libc(loader));
    CHECK(moat_module_is_loader(getauxval(AT_BASE)));
    CHECK(!moat_module_is_loader((uintptr_t)&check_build_id));
    CHECK(!moat_module_is_loader((uintptr_t)dlsym(RTLD_DEFAULT, "qsort")));
    CHECK(!moat_module_is_own((uintptr_t)&check_build_id)); /* linked statically without its section: unknown */
}

static void run(const char *command) { CHECK_EQ(system(command), 0); }

/* Two libraries of one layout, so that the loader puts the second where the first was. */
MOAT_TEST(port_module, tells_a_library_from_the_next_at_its_place) {
    char directory[] = "/tmp/moat-test-XXXXXX", command[512], path[2][64];
    struct moat_module module[2];
    uintptr_t place[2];
    uint16_t index[2];
    CHECK(mkdtemp(directory) != NULL);
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/lib%d.so", directory, i);
        snprintf(command, sizeof command,
                 "echo 'int plugin(void) { return %d; }' | ${CC:-cc} -shared -fPIC -Wl,--build-id=sha1 -x c - -o %s",
                 10 + i, path[i]);
        run(command);
        void *library = dlopen(path[i], RTLD_NOW);
        CHECK(library != NULL);
        place[i] = (uintptr_t)dlsym(library, "plugin");
        index[i] = moat_module_of(place[i]);
        CHECK(index[i] != MOAT_NO_MODULE);
        CHECK_EQ(moat_module_of(place[i] + 1), index[i]);
        CHECK_EQ(dlclose(library), 0);
    }
    CHECK_EQ(place[0], place[1]); /* else this test shows nothing */
    CHECK(index[0] != index[1]);
    CHECK_EQ(moat_module_of(place[1]), MOAT_NO_MODULE);
    for (int i = 0; i < 2; i++) {
        moat_module_get(index[i], &module[i]);
        CHECK_TEXT(module[i].path, path[i]);
        check_build_id(&module[i]);
    }
    CHECK(memcmp(module[0].build_id, module[1].build_id, MOAT_BUILD_ID_BYTES) != 0);
    snprintf(command, sizeof command, "rm -r %s", directory);
    run(command);
}

MOAT_TEST(port_module, makes_relative_paths_absolute) {
    char directory[] = "/tmp/moat-test-XXXXXX", command[512], expected[128];
    CHECK(mkdtemp(directory) != NULL && chdir(directory) == 0);
    run("echo 'int plugin(void) { return 1; }' | ${CC:-cc} -shared -fPIC -x c - -o relative.so");
    void *library = dlopen("./relative.so", RTLD_NOW);
    CHECK(library != NULL);
    uint16_t index = moat_module_of((uintptr_t)dlsym(library, "plugin"));
    snprintf(expected, sizeof expected, "%s/relative.so", directory);
    CHECK_TEXT(moat_module_path(index), expected);
    CHECK(chdir("/") == 0);
    snprintf(command, sizeof command, "rm -r %s", directory);
    run(command);
}

enum { MEETING_THREADS = 2, MEETING_MODULES = 8 };

static uintptr_t meeting_place[MEETING_MODULES];
static size_t meeting_places;

static int note_place(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size;
    (void)unused;
    if (meeting_places < MEETING_MODULES)
        meeting_place[meeting_places++] = info->dlpi_addr + info->dlpi_phdr[0].p_vaddr;
    return 0;
}

static void *look_up_together(void *counter) {
    _Atomic size_t *arrived = counter;
    static _Thread_local uint16_t index[MEETING_MODULES];
    size_t digest = 0;
    for (size_t i = 0; i < meeting_places; i++) {
        ++*arrived;
        while (*arrived < (i + 1) * MEETING_THREADS) { /* spinning, to meet as closely as can be */
        }
        index[i] = moat_module_of(meeting_place[i]);
        digest = digest * 4099 + index[i];
    }
    return (void *)digest;
}

MOAT_TEST(port_module, threads_that_meet_a_module_together_agree) {
    pthread_t thread[MEETING_THREADS];
    _Atomic size_t arrived = 0;
    void *first = NULL, *result;
    dl_iterate_phdr(note_place, NULL);
    for (int i = 0; i < MEETING_THREADS; i++)
        CHECK(pthread_create(&thread[i], NULL, look_up_together, &arrived) == 0);
    for (int i = 0; i < MEETING_THREADS; i++) {
        CHECK(pthread_join(thread[i], &result) == 0);
        if (i == 0)
            first = result;
        CHECK(result == first);
    }
}

MOAT_TEST(port_module, names_the_program_and_its_arguments) {
    char path[512], command[4096], expected[4096], small[8];
    CHECK_EQ(moat_program_path(path, sizeof path), strlen(program_path()));
    CHECK_TEXT(path, program_path());
    FILE *file = popen("tr '\\0' ' ' < /proc/$PPID/cmdline | sed 's/ $//'", "r");
    CHECK(file != NULL && fgets(expected, sizeof expected, file) != NULL);
    pclose(file);
    CHECK_EQ(moat_program_command(command, sizeof command), strlen(expected));
    CHECK_TEXT(command, expected);
    CHECK_EQ(moat_program_command(small, sizeof small), 7u);
    CHECK(memcmp(small, expected, 4) == 0);
    CHECK_TEXT(small + 4, "...");
}

/* ---- names ----------------------------------------------------------------------------------------------------- */

static bool name_of(uintptr_t pc, bool exact, struct moat_location *location) {
    struct moat_module module;
    const struct moat_symboliser *symboliser = moat_symtab_symboliser();
    uint16_t index = moat_module_of(pc);
    struct moat_frame frame = {pc, index, exact, 0};
    moat_module_get(index, &module);
    return symboliser->locate(symboliser->context, &frame, &module, location, 1) == 1;
}

/* Every function of the program that nm knows. */
MOAT_TEST(port_symtab, names_the_programs_functions_as_nm_does) {
    char command[700], line[1024], kind, name[1000];
    unsigned long value, size;
    size_t checked = 0;
    struct moat_location location;
    uintptr_t bias = moat_module_bias(moat_module_of((uintptr_t)&name_of));
    snprintf(command, sizeof command, "nm -S '%s'", program_path());
    FILE *pipe = popen(command, "r");
    CHECK(pipe != NULL);
    while (fgets(line, sizeof line, pipe)) {
        if (sscanf(line, "%lx %lx %c %999s", &value, &size, &kind, name) != 4 || (kind != 'T' && kind != 't') ||
            size < 2)
            continue;
        CHECK(name_of(bias + value, true, &location));
        CHECK_EQ(location.function_offset, 0u);
        bool same = strcmp(location.function, name) == 0;
        CHECK(name_of(bias + value + size, false, &location)); /* a call may be a function's last instruction */
        CHECK_EQ(location.function_offset, size);
        CHECK(name_of(bias + value + size - 1, true, &location));
        CHECK_EQ(location.function_offset, size - 1);
        checked += same; /* not all: some addresses have two names */
        CHECK(location.file == NULL && location.line == 0 && !location.inlined);
    }
    pclose(pipe);
    CHECK(checked > 50);
    CHECK(name_of((uintptr_t)&name_of, true, &location));
    CHECK_TEXT(location.function, "name_of");
}

MOAT_TEST(port_symtab, names_libc_from_its_dynamic_symbols) {
    struct moat_location location;
    uintptr_t qsort_at = (uintptr_t)dlsym(RTLD_DEFAULT, "qsort");
    CHECK(name_of(qsort_at + 3, true, &location));
    CHECK_TEXT(location.function, "qsort");
    CHECK_EQ(location.function_offset, 3u);
    CHECK(!name_of(0x10, true, &location));
}

static void copy_file(const char *from, const char *to) {
    char command[1200];
    snprintf(command, sizeof command, "cp '%s' '%s'", from, to);
    run(command);
}

MOAT_TEST(port_symtab, believes_only_the_file_that_was_loaded) {
    char path[] = "/tmp/moat-test-XXXXXX", name[256];
    struct moat_module module;
    close(mkstemp(path));
    copy_file(program_path(), path);
    moat_module_get(moat_module_of((uintptr_t)dlsym(RTLD_DEFAULT, "qsort")), &module);
    CHECK(moat_symtab_name_data((uintptr_t)dlsym(RTLD_DEFAULT, "qsort"), &module, name, sizeof name) != 0);
    CHECK_TEXT(name, "qsort");
    module.build_id[MOAT_BUILD_ID_BYTES - 1] ^= 1; /* rebuilt since: the names would be wrong */
    CHECK_EQ(moat_symtab_name_data((uintptr_t)dlsym(RTLD_DEFAULT, "qsort"), &module, name, sizeof name), 0u);
    module.build_id[MOAT_BUILD_ID_BYTES - 1] ^= 1;
    strcpy(module.path, path); /* another file has taken libc's name */
    CHECK_EQ(moat_symtab_name_data((uintptr_t)dlsym(RTLD_DEFAULT, "qsort"), &module, name, sizeof name), 0u);
    strcpy(module.path, "/tmp");
    CHECK_EQ(moat_symtab_name_data((uintptr_t)dlsym(RTLD_DEFAULT, "qsort"), &module, name, sizeof name), 0u);
    unlink(path);
    CHECK(mkfifo(path, 0600) == 0); /* must not wait for a writer */
    strcpy(module.path, path);
    CHECK_EQ(moat_symtab_name_data((uintptr_t)dlsym(RTLD_DEFAULT, "qsort"), &module, name, sizeof name), 0u);
    unlink(path);
}

/* Files cut short and files with damaged bytes in their headers and tables: a name or none, never a fault. */
MOAT_TEST(port_symtab, survives_damaged_files) {
    char path[] = "/tmp/moat-test-XXXXXX", name[64];
    struct moat_module module;
    struct stat status;
    unsigned seed = 7;
    int file = mkstemp(path);
    moat_module_get(moat_module_of((uintptr_t)&name_of), &module);
    copy_file(program_path(), path);
    CHECK(fstat(file, &status) == 0);
    strcpy(module.path, path);
    module.build_id_bytes = 0; /* so that damage is met beyond the first check */
    for (int round = 0; round < 3000; round++) {
        unsigned char old[8], bad[8];
        seed = seed * 1103515245u + 12345u;
        off_t at = (seed >> 8) % 3 == 0 ? (off_t)((seed >> 10) % 64) : (off_t)((seed >> 10) % 4096);
        if ((seed >> 8) % 3 == 1)
            at = status.st_size - 8 - (off_t)((seed >> 10) % 3000); /* the section headers are last */
        CHECK(pread(file, old, 8, at) == 8);
        memcpy(bad, old, 8);
        for (int i = 0; i < 8; i++)
            if (seed >> (16 + i) & 1)
                bad[i] = (unsigned char)(round & 1 ? 0xff : bad[i] ^ (seed >> i));
        CHECK(pwrite(file, bad, 8, at) == 8);
        size_t length = moat_symtab_name_data((uintptr_t)&name_of, &module, name, sizeof name);
        CHECK(length < sizeof name && strlen(name) == length);
        CHECK(pwrite(file, old, 8, at) == 8);
    }
    CHECK(moat_symtab_name_data((uintptr_t)&name_of, &module, name, sizeof name) != 0);
    CHECK_TEXT(name, "name_of");
    for (off_t size = status.st_size; size > 0; size -= 1 + size / 40) {
        CHECK(ftruncate(file, size) == 0);
        CHECK(moat_symtab_name_data((uintptr_t)&name_of, &module, name, sizeof name) < sizeof name);
    }
    unlink(path);
}
