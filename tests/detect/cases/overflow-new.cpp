// An array from new[] written past its end, found by delete[].
// find: kind=heap-buffer-overflow when=free size=40 first=40 last=43 block.family=new[]
// status: 134
static int *make_numbers() { return new int[10]; /* @allocated make_numbers */ }

int main() {
    int *numbers = make_numbers(); /* @allocated2 main */
    for (int i = 0; i <= 10; i++)
        numbers[i] = i * 0x01010101;
    delete[] numbers; /* @found main */
    return 0;
}
