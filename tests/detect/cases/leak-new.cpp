// Forgotten objects of C++.
// find: kind=memory-leak when=exit class=definite blocks=3 bytes=72
// status: 23
struct Point {
    double x = 0, y = 0, z = 0;
};

static void forget() {
    Point *volatile point = new Point; /* @allocated forget */
    (void)point;
}

static void wipe_stack() {
    volatile char bytes[4096];
    for (volatile char &byte : bytes)
        byte = 0;
}

int main() {
    for (int i = 0; i < 3; i++)
        forget();
    wipe_stack();
    return 0;
}
