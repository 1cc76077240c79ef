#!/bin/bash
# What the built libraries must look like from outside: needs nothing but the C library, takes no symbol it should not take,
# has its constructor run first. Prints one line per fault.
set -u
build=${MOAT_BUILD:-build}
faults=0
fault() {
    echo "$1"
    faults=$((faults + 1))
}

library=$build/libmoat.so
[ -f "$library" ] || { echo "$library is not built"; exit 1; }
while read -r needed; do
    case $needed in
    libc.so.6 | ld-linux-x86-64.so.2 | ld-linux-aarch64.so.1) ;;
    *) fault "$library needs $needed; preloaded into any program, it may need the C library only" ;;
    esac
done < <(readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
readelf -d "$library" | grep -q INITFIRST || fault "$library lacks INITFIRST: other constructors would run before ours"
readelf -d "$library" | grep -Eq 'BIND_NOW|NOW' || fault "$library binds lazily: the loader would be called inside malloc"
readelf -d "$library" | grep -q TEXTREL && fault "$library has text relocations"
readelf -lW "$library" | grep -q 'GNU_STACK.*RWE' && fault "$library asks for an executable stack"

allowed=$(dirname "$0")/exports.txt
while read -r symbol; do
    case $symbol in
    moat_*) ;;
    *) grep -qxF -- "$symbol" "$allowed" || fault "$library exports $symbol, which tests/lint/exports.txt does not list" ;;
    esac
done < <(nm -D --defined-only "$library" | awk '{ sub(/@.*/, "", $3); print $3 }')
while read -r symbol; do
    nm -D --defined-only "$library" | awk '{ sub(/@.*/, "", $3); print $3 }' | grep -qxF -- "$symbol" ||
        fault "$library does not export $symbol: calls of it would reach another allocator"
done < <(grep -v -e '^#' -e '^$' "$allowed")

for name in "$build"/libmoat.a; do
    [ -f "$name" ] || fault "$name is not built"
done
[ "$faults" -eq 0 ]
