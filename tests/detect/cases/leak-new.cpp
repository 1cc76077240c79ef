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

int main() {
    for (int i = 0; i < 3; i++)
        forget();
    return 0;
}
