#!/bin/bash
# Surroundings that mean no good: handlers that allocate, sandboxes, limits, libraries with operators of their own. Ends with
# "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
here=$PWD/tests/hostile
build=$(realpath "${MOAT_BUILD:-build}")
library=$build/libmoat.so
cc=${CC:-gcc}
cxx=${CXX:-g++}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
unset MOAT_OPTIONS LD_PRELOAD
export LC_ALL=C

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAIL $1"
    head -n 20 "$work/output" "$work/errors" 2>/dev/null | sed 's/^/    | /'
}
# ok NAME COMMAND...: passes when the command succeeds.
ok() {
    local name=$1
    shift
    if "$@"; then pass; else fail "$name"; fi
}
# under PROGRAM ARGUMENT...: runs it preloaded, at most for 20 s, into the files output and errors; sets status.
under() {
    timeout -s KILL 20 env LD_PRELOAD="$library" "$@" >"$work/output" 2>"$work/errors" </dev/null
    status=$?
} 2>/dev/null

for program in handler threads sandbox; do
    $cc -std=gnu11 -Wall -Wextra -Werror -O0 -g -fno-builtin -o "$work/$program" "$here/$program.c" -pthread || exit 1
done
$cxx -O1 -g -fPIC -shared -Wl,-Bsymbolic -o "$work/libown.so" "$here/own_new.cc" || exit 1
$cxx -O1 -g -o "$work/deletes" "$here/deletes.cc" -L"$work" -lown -Wl,-rpath,"$work" || exit 1

for shards in 0 2 8; do
    MOAT_OPTIONS=shards=$shards under "$work/handler"
    ok "a handler that allocates does not hang, shards=$shards" [ "$status" = 0 ]
    ok "nothing is found in it, shards=$shards" [ ! -s "$work/errors" ]
done

under "$work/threads"
ok "threads come and go" [ "$status" = 0 ]
ok "threads that ended leave nothing behind" [ "$(cat "$work/output")" -lt 4000 ]

under "$work/sandbox" filter
if [ "$status" != 77 ]; then # a machine without filters
    ok "a program that may not reset signals ends all the same" [ "$status" = 134 ]
    ok "its report comes out where only fstat is allowed" grep -q 'moat: heap-buffer-overflow in sandbox' "$work/errors"
fi
(under "$work/sandbox" size; echo "$status" >"$work/status") 2>/dev/null
ok "a report is no reason to die of SIGXFSZ" [ "$(cat "$work/status")" = 134 ]

# A fully static program that has nothing to do still ends.
$cc -static -g -o "$work/still" -x c - -L"$build" -Wl,-u,malloc -lmoat <<<'int main(void) { return 3; }' || exit 1
timeout -s KILL 20 "$work/still" >"$work/output" 2>"$work/errors"
ok "libgcc's last free does not hang a static program" [ $? = 3 ]

under "$work/deletes"
ok "a library's own operator new is no mismatch" [ "$status" = 0 ]
ok "and nothing is said of it" [ ! -s "$work/errors" ]
under "$work/deletes" all
ok "malloc and delete still are" grep -q 'moat: alloc-dealloc-mismatch' "$work/errors"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
