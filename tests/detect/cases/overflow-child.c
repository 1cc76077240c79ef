// The bug is in a child process: reported, but the status is the parent's.
// find: kind=heap-buffer-overflow when=free size=16 first=16 last=16
// status: 0
// child: yes
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void) {
    printf("%d\n", (int)getpid());
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        char *block = malloc(16); /* @allocated main */
        block[16] = 'A';
        free(block); /* @found main */
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return !WIFSIGNALED(status);
}
