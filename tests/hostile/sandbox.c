/* Puts itself under a filter that refuses all but a few calls, or under a file size limit of 0, then writes past a block. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define ALLOW(call) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void confine(void) {
    struct sock_filter rules[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                                  ALLOW(read),
                                  ALLOW(write),
                                  ALLOW(exit_group),
                                  ALLOW(mmap),
                                  ALLOW(munmap),
                                  ALLOW(mprotect),
                                  ALLOW(fstat),
                                  ALLOW(newfstatat),
                                  ALLOW(rt_sigreturn),
                                  ALLOW(rt_sigprocmask),
                                  ALLOW(gettid),
                                  ALLOW(getpid),
                                  ALLOW(tgkill),
                                  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1 /* EPERM */)};
    struct sock_fprog program = {sizeof rules / sizeof rules[0], rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        exit(77);
    }
}

int main(int count, char **arguments) {
    if (count > 1 && strcmp(arguments[1], "size") == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_FSIZE, &none);
    } else {
        confine();
    }
    char *block = malloc(10);
    block[10] = 1;
    free(block);
    return 0;
}
