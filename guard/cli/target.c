/* The program to be started: where it is, and whether a preloaded library will reach it.
 * May include: guard/cli/cli.h and the C library. */
#include "guard/cli/cli.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define INTERPRETERS_MAX 5 /* the kernel follows no more scripts either */
#define HEAD_BYTES 512     /* of a file; a script's first line is cut there, as the kernel cuts it at 256 */
#define PROGRAM_HEADERS_MAX 64
#define DEFAULT_PATH "/bin:/usr/bin"

/* ---- finding it ---- */

static int look_at(const char *path) {
    struct stat status;
    if (stat(path, &status) != 0) {
        return errno == EACCES ? MOAT_EXIT_NOT_EXECUTABLE : MOAT_EXIT_NOT_FOUND;
    }
    return S_ISREG(status.st_mode) && access(path, X_OK) == 0 ? 0 : MOAT_EXIT_NOT_EXECUTABLE;
}

int moat_target_find(const char *name, char path[PATH_MAX]) {
    if (strchr(name, '/') != NULL) {
        if (snprintf(path, PATH_MAX, "%s", name) >= PATH_MAX) {
            return MOAT_EXIT_NOT_FOUND;
        }
        return look_at(path);
    }
    const char *list = getenv("PATH");
    list = list != NULL ? list : DEFAULT_PATH;
    int best = MOAT_EXIT_NOT_FOUND;
    while (*name != '\0') {
        size_t length = strcspn(list, ":");
        /* An empty part of PATH is the current directory. */
        int used = snprintf(path, PATH_MAX, "%.*s%s%s", (int)length, list, length > 0 ? "/" : "./", name);
        int result = used < PATH_MAX ? look_at(path) : MOAT_EXIT_NOT_FOUND;
        if (result == 0) {
            return 0;
        }
        struct stat status;
        bool directory = stat(path, &status) == 0 && S_ISDIR(status.st_mode); /* execvp() does not mind those either */
        best = result == MOAT_EXIT_NOT_EXECUTABLE && !directory ? result : best;
        if (list[length] == '\0') {
            break;
        }
        list += length + 1;
    }
    return best;
}

/* ---- reading it ---- */

struct head {
    unsigned char bytes[HEAD_BYTES + 1];
    size_t length;
};

static bool read_head(const char *path, struct head *head, int *fd) {
    memset(head, 0, sizeof *head);
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) {
        return false;
    }
    ssize_t got = pread(*fd, head->bytes, HEAD_BYTES, 0);
    head->length = got > 0 ? (size_t)got : 0;
    return true;
}

/* Whether a program of this class and machine has an interpreter, which is what loads a preloaded library. Both layouts
 * are read by their own structs, which differ in more than width. */
static bool has_interpreter(int fd, const struct head *head) {
    bool wide = head->bytes[EI_CLASS] == ELFCLASS64;
    Elf64_Ehdr header64;
    Elf32_Ehdr header32;
    memcpy(&header64, head->bytes, sizeof header64);
    memcpy(&header32, head->bytes, sizeof header32);
    uint64_t at = wide ? header64.e_phoff : header32.e_phoff;
    uint64_t size = wide ? header64.e_phentsize : header32.e_phentsize;
    uint64_t count = wide ? header64.e_phnum : header32.e_phnum;
    for (uint64_t i = 0; i < count && i < PROGRAM_HEADERS_MAX; i++) {
        uint32_t type = PT_NULL;
        if (pread(fd, &type, sizeof type, (off_t)(at + i * size)) != (ssize_t)sizeof type) {
            return false;
        }
        if (type == PT_INTERP) {
            return true;
        }
    }
    return false;
}

static bool is_elf(const struct head *head) {
    return head->length >= sizeof(Elf64_Ehdr) && memcmp(head->bytes, ELFMAG, SELFMAG) == 0;
}

static uint16_t machine_of(const struct head *head) {
    Elf32_Ehdr header; /* e_machine lies at the same place in both classes */
    memcpy(&header, head->bytes, sizeof header);
    return header.e_machine;
}

/* Whether exec gives it rights that its starter lacks; the loader then ignores LD_PRELOAD. */
static bool gains_rights(const char *path) {
    struct stat status;
    struct statvfs volume;
    if (stat(path, &status) != 0 || (statvfs(path, &volume) == 0 && (volume.f_flag & ST_NOSUID) != 0)) {
        return false;
    }
    bool user = (status.st_mode & S_ISUID) != 0 && status.st_uid != getuid();
    bool group = (status.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && status.st_gid != getgid();
    bool capabilities = getuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0;
    return user || group || capabilities;
}

/* The interpreter named by a script's first line. */
static bool interpreter_of(const struct head *head, char path[PATH_MAX]) {
    const char *line = (const char *)head->bytes;
    if (strncmp(line, "#!", 2) != 0) {
        return false;
    }
    line += 2 + strspn(line + 2, " \t");
    size_t length = strcspn(line, " \t\r\n");
    if (length == 0 || length >= PATH_MAX) {
        return false;
    }
    memcpy(path, line, length);
    path[length] = '\0';
    return true;
}

enum moat_cover moat_target_cover(const char *path, const char *library_path) {
    char current[PATH_MAX];
    snprintf(current, sizeof current, "%s", path);
    for (int depth = 0; depth < INTERPRETERS_MAX; depth++) {
        struct head head;
        struct head library;
        int fd = -1;
        int library_fd = -1;
        if (!read_head(current, &head, &fd)) {
            return gains_rights(current) ? MOAT_COVER_SETUID : MOAT_COVER_UNKNOWN;
        }
        if (interpreter_of(&head, current)) {
            close(fd);
            continue;
        }
        enum moat_cover cover = MOAT_COVER_UNKNOWN;
        if (is_elf(&head)) {
            bool same = read_head(library_path, &library, &library_fd) &&
                        head.bytes[EI_CLASS] == library.bytes[EI_CLASS] && machine_of(&head) == machine_of(&library);
            cover = !has_interpreter(fd, &head) ? MOAT_COVER_STATIC
                    : !same                     ? MOAT_COVER_OTHER_CLASS
                    : gains_rights(current)     ? MOAT_COVER_SETUID
                                                : MOAT_COVER_EXPECTED;
        }
        close(fd);
        if (library_fd >= 0) {
            close(library_fd);
        }
        return cover;
    }
    return MOAT_COVER_UNKNOWN;
}

bool moat_target_is_text(const char *path) {
    struct head head;
    int fd = -1;
    if (!read_head(path, &head, &fd)) {
        errno = ENOEXEC;
        return false;
    }
    close(fd);
    errno = ENOEXEC; /* what the caller has to report if it is none */
    return memcmp(head.bytes, ELFMAG, SELFMAG) != 0 && memchr(head.bytes, '\0', head.length) == NULL;
}

const char *moat_cover_reason(enum moat_cover cover) {
    switch (cover) {
    case MOAT_COVER_STATIC:
        return "statically linked";
    case MOAT_COVER_SETUID:
        return "setuid";
    case MOAT_COVER_OTHER_CLASS:
        return "another class of ELF";
    case MOAT_COVER_EXPECTED:
    case MOAT_COVER_UNKNOWN:
        break;
    }
    return "did not load the library";
}
