/* A library whose functions lie where another build's do, but have frames of another size: build it with and without -DLARGE. */
#ifdef LARGE
enum { ROOM = 400 };
#else
enum { ROOM = 8 };
#endif

void call(void (*back)(void), unsigned depth);

void call(void (*back)(void), unsigned depth) {
    volatile char room[ROOM];
    room[depth] = 1;
    if (depth == 0) {
        back();
    } else {
        call(back, depth - 1);
    }
    room[depth] = 2;
}
