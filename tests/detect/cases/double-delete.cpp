// Deleted twice.
// find: kind=double-free when=free size=8
// status: 134
static long *shared;

int main() {
    shared = new long(1); /* @allocated main */
    delete shared;        /* @freed main */
    delete shared;        /* @found main */
    return 0;
}
