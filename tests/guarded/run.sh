#!/bin/bash
# Guards over allocators of the program's own: a list, the heap, a pool and an arena. Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/suite.sh
here=tests/guarded
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

finish
