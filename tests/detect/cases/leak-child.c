// A child leaks: reported, but neither its status nor the program's changes.
// find: kind=memory-leak when=exit class=definite blocks=1 bytes=60
// status: 0
// child: yes
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void forget(void) {
    volatile char *block = malloc(60); /* @allocated forget */
    block[0] = 1;
}

static void wipe_stack(void) {
    volatile char bytes[4096];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = 0;
}

int main(void) {
    printf("%d\n", (int)getpid());
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        forget(); /* @allocated2 main */
        wipe_stack();
        exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return status != 0;
}
