#!/bin/bash
# What Moat shows: the reports of a small program with one bug of each sort, then a large one that is clean, and its price.
set -u
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
cd "$top" || exit 1
build=${MOAT_BUILD:-build}
work=$build/demo
mkdir -p "$work"
export DEBUGINFOD_URLS=

bold='' plain=''
if [ -t 1 ]; then
    bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi
say() {
    printf '\n%s--- %s%s\n' "$bold" "$1" "$plain"
    [ -z "${2-}" ] || printf '%s\n' "$2" | fold -s -w 110
    echo
}
fail() {
    echo "demo: $1" >&2
    exit 1
}

${CC:-gcc} -g -O1 -c -o "$work/loglens.o" "$here/loglens.c" &&
    ${CXX:-g++} -g -O1 -o "$work/loglens" "$work/loglens.o" "$here/label.cpp" || fail "the demo program does not build"
input=(tests/demo/loglens.conf tests/demo/access.log)

say "a correct program under Moat: build/moat run -- $work/loglens ${input[*]}" \
    "loglens sums a web server's log up. Without a bug switched on, Moat has nothing to say."
"$build/moat" run -- "$work/loglens" "${input[@]}"
status=$?
echo "exit status $status"
[ "$status" -eq 0 ] || fail "the correct program should have ended with 0"

# NAME WANTED-STATUS KIND TEXT: 134 is SIGABRT as a shell says it, Moat's answer to corruption; 23 says that there are leaks.
bugs=(
    "overflow-by-nul|134|heap-buffer-overflow|A text's copy has no room for its terminating NUL: one zero byte lands past the end."
    "overflow|134|heap-buffer-overflow|The host table's fullness test is off by one: one whole row is written behind the array."
    "underflow|134|heap-buffer-underflow|An empty setting has no last character to cut off; the NUL lands in front of the block."
    "use-after-free|134|heap-use-after-free|A pointer into the table is kept while realloc moves the table elsewhere."
    "double-free|134|double-free|The error path frees what the clean-up frees again."
    "invalid-free|134|invalid-free|The pointer was moved past leading blanks before it was freed."
    "mismatch|134|alloc-dealloc-mismatch|A label made with new[] in C++ is released with free in C."
    "leak|23|memory-leak|A setting given twice overwrites the pointer to its first value."
)
count=0
for entry in "${bugs[@]}"; do
    IFS='|' read -r name wanted kind text <<<"$entry"
    count=$((count + 1))
    say "bug $count of ${#bugs[@]}: --bug $name" "$text"
    # A shell of its own, so that its word about the fatal signal does not get between the reports.
    bash -c '"$@" >"$0"' "$work/output" "$build/moat" run -- "$work/loglens" --bug "$name" "${input[@]}" 2>&1 |
        grep -v 'Aborted' | tee "$work/report.txt"
    status=${PIPESTATUS[0]}
    echo "exit status $status"
    [ "$status" -eq "$wanted" ] || fail "$name ended with $status, not $wanted"
    grep -q "$kind" "$work/report.txt" || fail "$name was not reported as $kind"
done

say "a large program: sqlite3 with a ledger of 30,000 postings" \
    "The same script runs without and with Moat; outputs are compared, time and peak memory measured."
${CC:-gcc} -O1 -o "$work/measure" tests/programs/measure.c || fail "the measuring program does not build"
exec /usr/bin/python3 "$here/cost.py" "$build" "$here/ledger.sql" "$work/measure"
