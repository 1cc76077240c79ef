#!/bin/bash
# Guards over allocators of the program's own: a list, the heap, a pool and an arena. Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$(realpath "${MOAT_BUILD:-build}")
here=tests/guarded
work=$build/tests/guarded
mkdir -p "$work"
passed=0
failed=0
unset MOAT_OPTIONS LD_PRELOAD

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAIL $1"
    [ $# -gt 1 ] && sed 's/^/    | /' <<<"$2" | head -n 40
}
# Adds the counts of a program whose last line is "N passed, N failed".
add() {
    local output last
    output=$("$@" 2>&1)
    last=$(tail -n 1 <<<"$output")
    if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        grep -v 'passed,' <<<"$output"
    else
        fail "$* has no count" "$output"
    fi
}
# Counts the lines of a program that says "pass" or "FAIL" for each expectation, and must end with 0.
verdicts() {
    local status=0
    timeout 120 "$@" >"$work/verdicts" 2>"$work/errors" || status=$?
    passed=$((passed + $(grep -c '^pass ' "$work/verdicts")))
    while read -r line; do fail "$1: ${line#FAIL }"; done < <(grep '^FAIL ' "$work/verdicts")
    [ "$status" -eq 0 ] && grep -q '^pass ' "$work/verdicts" || fail "$1 ended with status $status" "$(tail "$work/errors")"
}
# compile NAME FLAGS...: a test program with the allocators, against the static library.
compile() {
    local name=$1
    shift
    ${CC:-gcc} -std=gnu11 -Wall -Wextra -Werror -O1 -g -fno-builtin -Iinclude -I. -o "$work/$name" "$here/${name%-*}.c" \
        $here/allocators.c $here/first_fit.c $here/first_fit_guard.c "$@" -L"$build" -Wl,--undefined=malloc -l:libmoat.a -pthread ||
        fail "$name does not compile"
}

add /usr/bin/python3 $here/bugs.py "$build" "$work"
compile calls && verdicts "$work/calls"
compile calls-static -static && verdicts "$work/calls-static"
add /usr/bin/python3 $here/doc.py

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
