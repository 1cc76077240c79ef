#!/bin/bash
# Stacks against an oracle: a build of the preload library, made here, in which every k-th captured stack is walked by libgcc's unwinder as
# well; a difference kills the process. Run on scenes made to be hard, built in many ways, and on real programs. Then the
# stacks in reports of static programs. Usage: run.sh [--deep]; ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
here=$PWD/tests/stacks
build=$(realpath "${MOAT_BUILD:-build}")
inputs=$PWD/tests/programs/inputs
cc=${CC:-gcc}
deep=
[ "${1-}" = --deep ] && deep=yes
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
unset MOAT_OPTIONS LD_PRELOAD
export LC_ALL=C.UTF-8 DEBUGINFOD_URLS=

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAIL $1"
    [ $# -gt 1 ] && sed 's/^/    | /' <<<"$2" | head -n 70
}
finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}

# ---- the library with the check in it --------------------------------------------------------------------------------
# The same objects as the preload library's, and one more around moat_walk.
library=$work/libmoat-checked.so
build_checked() {
    local objects
    objects=$(find src guard/engine guard/report guard/option guard/port/linux guard/entry -name '*.c' |
        sed "s|^|$build/obj/lib/|; s|c\$|o|")
    $cc -std=gnu11 -Wall -Wextra -Werror -O2 -g -fPIC -fvisibility=hidden -ftls-model=initial-exec -fexceptions \
        -fasynchronous-unwind-tables -Iinclude -I. -c "$here/check.c" -o "$work/check.o" &&
        $cc -shared -Wl,-soname,libmoat.so -Wl,-z,initfirst -Wl,-z,now -Wl,--as-needed -Wl,--wrap=moat_walk -o "$library" \
            $objects "$work/check.o"
}

# checked NAME EVERY LEAST COMMAND...: the command ends with 0, at least LEAST stacks were compared, none differed, and no walk was
# left to an unwinder.
checked() {
    local name=$1 every=$2 least=$3 status counts compared hard
    shift 3
    rm -rf "$work/counts"
    mkdir "$work/counts"
    MOAT_CHECK=$every:$work/counts MOAT_OPTIONS=leak_check=0 LD_PRELOAD=$library timeout 250 "$@" >"$work/output" 2>&1 </dev/null
    status=$?
    counts=$(cat "$work/counts"/* 2>/dev/null | awk '{ w += $1; l += $3; h += $5; c += $7; f += $9; n += $11 }
        END { own = w - h + (w == h); printf("%d %d %d walks, %d lost, depth %.1f of which new %.1f", c, h, w, l, f / own, n / own) }')
    read -r compared hard counts <<<"$counts"
    if grep -aq '^stacks differ' "$work/output"; then
        fail "$name: stacks differ" "$(grep -a -A 60 '^stacks differ' "$work/output")"
    elif [ "$status" -ne 0 ]; then
        fail "$name: status $status" "$(tail -n 5 "$work/output")"
    elif [ "$compared" -lt "$least" ]; then
        fail "$name: only $compared stacks were compared"
    elif [ "$hard" -gt $((compared / 1000)) ]; then
        fail "$name: $hard stacks were left to an unwinder"
    else
        pass
        [ -n "$deep" ] && echo "$name: $compared compared, $hard left to an unwinder, $counts"
    fi
}

build_checked || { fail "the checked library cannot be built"; finish; }

# ---- scenes, built in many ways --------------------------------------------------------------------------------------

for library_number in 0 1; do
    gcc -O1 -shared -fPIC $([ $library_number = 1 ] && echo -DLARGE) -o "$work/call$library_number.so" "$here/call.c"
done
export SCENES_LIBRARIES=$work

# scenes NAME COMPILER FLAGS...: builds them and runs all that are not slow.
scenes() {
    local name=$1
    shift
    if ! "$@" -std=gnu11 -g -w -o "$work/scenes" "$here/scenes.c" -pthread -ldl 2>"$work/output"; then
        fail "scenes do not compile by $*" "$(cat "$work/output")"
        return
    fi
    checked "scenes $name" 1 90000 "$work/scenes" tree jumps signals coroutines loading machine-code threads forks
    checked "single steps $name" 1 500 "$work/scenes" steps
}

scenes gcc-O2 gcc -O2
# That the check notices at all.
MOAT_CHECK=1:$work:flaw MOAT_OPTIONS=leak_check=0 LD_PRELOAD=$library "$work/scenes" tree >"$work/output" 2>&1
if [ $? = 137 ] && grep -q '^stacks differ' "$work/output"; then pass; else fail "a spoilt frame is not noticed"; fi
checked "deep recursion" 3 4000 "$work/scenes" deep
# Stacks full of rubbish, which no other unwinder is asked to follow.
for round in 1 2 3; do
    if LD_PRELOAD=$build/libmoat.so timeout 100 "$work/scenes" damage >"$work/output" 2>&1; then pass; else
        fail "damaged stacks" "$(head -n 20 "$work/output")"
    fi
done
scenes gcc-O0 gcc -O0
scenes gcc-O3-frame-pointer gcc -O3 -fno-omit-frame-pointer
scenes gcc-realigned gcc -O2 -mstackrealign -mno-red-zone
scenes clang-O2 clang -O2
if [ -n "$deep" ]; then
    scenes gcc-O1-non-pie gcc -O1 -no-pie -fno-pie
    scenes gcc-Os gcc -Os
    scenes gcc-avx2 gcc -O3 -mavx2 -ftree-vectorize
    scenes gcc-push gcc -O2 -mno-accumulate-outgoing-args -fno-omit-frame-pointer -mstackrealign
    scenes gcc-cet gcc -O2 -fcf-protection=full -fstack-protector-all -fstack-clash-protection
    scenes clang-O0 clang -O0
    scenes clang-O3-frame-pointer clang -O3 -fno-omit-frame-pointer
    scenes clang-realigned clang -O2 -mstackrealign -mavx2
    scenes clang-lld clang -O2 -fuse-ld=lld
    scenes gcc-gold gcc -O2 -fuse-ld=gold
fi
for compiler in g++ clang++; do
    for flags in -O0 -O2 '-O3 -fno-omit-frame-pointer'; do
        $compiler -std=c++17 $flags -w -o "$work/throws" "$here/throws.cpp" -pthread &&
            checked "exceptions by $compiler $flags" 1 10000 "$work/throws"
    done
done
if command -v gfortran >/dev/null; then
    gfortran -O2 -w -o "$work/grid" "$here/grid.f90" && checked "Fortran" 1 500 "$work/grid"
fi

# ---- real programs ---------------------------------------------------------------------------------------------------

export PYTHONMALLOC=malloc
checked perl 7 5000 perl "$inputs/work.pl" 1
checked lua 7 5000 lua5.4 "$inputs/work.lua" 1
checked python 17 5000 /usr/bin/python3 -S "$inputs/work.py" 1
checked sqlite 31 5000 sqlite3 -batch :memory: ".read $PWD/tests/demo/ledger.sql"
checked jq 17 5000 jq -n '[range(20000) | {a: ., b: tostring}] | group_by(.a % 7) | map(length)'
checked gcc 7 5000 gcc -O2 -c "$inputs/table.c" -o "$work/table.o"
checked git 1 1000 git -c safe.directory='*' log --stat -3
checked bash 31 5000 bash -c 'for i in {1..3000}; do a[i]=x$i; done; echo ${#a[@]} $(echo hi | cat)'
checked iconv 1 5000 bash -c 'for e in LATIN1 UTF-16 SJIS EUC-JP BIG5 KOI8-R; do echo hello | iconv -t $e | wc -c; done'
if [ -n "$deep" ]; then
    checked g++ 31 20000 g++ -O1 -c "$inputs/shapes.cpp" -o "$work/shapes.o"
    checked clang 7 5000 clang -O2 -c "$inputs/table.c" -o "$work/table.o"
    checked clang++ 31 20000 clang++ -O1 -c "$inputs/shapes.cpp" -o "$work/shapes.o"
    checked node 31 20000 node "$inputs/work.js" 1
    checked gdb 7 10000 gdb -nx -batch -ex 'set debuginfod enabled off' -ex 'break main' -ex run -ex 'info functions touch' -ex bt "$work/scenes"
    checked tar 1 5000 tar -czf /dev/null /usr/share/doc/git
    checked xz 1 200 xz -kc -1 -T2 --block-size=200KiB "$build/libmoat.so"
fi

# ---- reports ---------------------------------------------------------------------------------------------------------
# Whole stacks with lines in the reports of programs that have Moat linked in, with no frame of Moat's own.
cat >"$work/bug.c" <<'C'
#include <stdlib.h>
#include <string.h>
static char *make(void) {
    return malloc(20);
}
static void drop(char *block, int depth) {
    if (depth > 0)
        drop(block, depth - 1);
    else
        free(block);
    __asm__ volatile("");
}
int main(void) {
    char *block = make();
    memset(block, 'x', 21);
    drop(block, 3);
    return 0;
}
C
wanted='found: drop:10 drop:8 drop:8 drop:8 main:16
allocated: make:4 main:14'
for flags in '' -static -static-pie '-static -Wl,--gc-sections' '-static -O2 -fno-optimize-sibling-calls -fno-inline'; do
    $cc -g -fno-builtin $flags -o "$work/bug" "$work/bug.c" -L"$build" -Wl,--undefined=malloc -Wl,--eh-frame-hdr -l:libmoat.a 2>"$work/output" || {
        fail "cannot link with '$flags'" "$(cat "$work/output")"
        continue
    }
    rm -f "$work/report"
    ("$build/moat" run -o on_error=exit --format json --report "$work/report" -- "$work/bug") >/dev/null 2>&1
    got=$(/usr/bin/python3 - "$work/report" <<'PYTHON'
import json, sys
for line in open(sys.argv[1], encoding="utf-8"):
    finding = json.loads(line)
    if finding.get("kind") == "heap-buffer-overflow":
        for which in ("found", "allocated"):
            frames = finding["stacks"][which]
            names = [f"{f['function']}:{f['line']}" for f in frames if f.get("file", "").endswith("bug.c")]
            moats = [f["function"] for f in frames if "guard/" in f.get("file", "")]
            last = frames[-1].get("function")
            print(f"{which}:", *names, *moats, *([] if last == "_start" else [f"(ends at {last})"]))
PYTHON
    )
    if [ "$got" = "$wanted" ]; then pass; else fail "stacks in reports with '$flags'" "$got"; fi
done
finish
