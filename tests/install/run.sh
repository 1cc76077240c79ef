#!/bin/bash
# Installs into a scratch prefix and uses Moat from there, as a stranger would: the command, preloading, pkg-config with dynamic and
# fully static programs, the heap as a library, the man pages; then uninstalls.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$(realpath "${MOAT_BUILD:-build}")
work=$build/tests/install
prefix=$work/prefix
rm -rf "$work"
mkdir -p "$work"
export DEBUGINFOD_URLS= PKG_CONFIG_PATH=$prefix/lib/pkgconfig
unset MAKEFLAGS MFLAGS MAKELEVEL
passed=0
failed=0

check() { # WHAT COMMAND...
    local what=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED install: $what"
        tail -n 15 "$work/log" | sed 's/^/    /'
    fi
}
make_with() { make --no-print-directory B="${MOAT_BUILD:-build}" CC="${CC:-gcc}" CXX="${CXX:-g++}" "$@"; }
flags() { pkg-config --cflags --libs moat; }
# Whether a command's standard error and output hold a text, and its status is as given.
says() { # STATUS TEXT COMMAND...
    local wanted=$1 text=$2 status
    shift 2
    # Two commands in the shell's text: with one alone it would become the command, and its status be read as a signal.
    bash -c '"$@"; exit $?' shell "$@" >"$work/said" 2>&1 </dev/null
    status=$?
    cat "$work/said"
    echo "status $status, wanted $wanted and \"$text\""
    [ "$status" -eq "$wanted" ] && grep -qF -- "$text" "$work/said"
}

cat >"$work/bug.c" <<'SOURCE'
#include <stdlib.h>

int main(void) {
    char *block = malloc(20);
    block[20] = 'A';
    free(block);
    return 0;
}
SOURCE
cat >"$work/bug.cpp" <<'SOURCE'
#include <cstdlib>
#include <stdexcept>
#include <string>

int main() {
    try {
        throw std::runtime_error(std::string(100, 'x'));
    } catch (const std::exception &error) {
        if (std::string(error.what()).size() != 100)
            return 1;
    }
    int *number = new int[5];
    std::free(number);
    return 0;
}
SOURCE
cat >"$work/heap.c" <<'SOURCE'
#include <moat/heap.h>
#include <stdio.h>

static _Alignas(16) char buffer[65536];

int main(void) {
    struct moat_heap *heap = moat_heap_create(buffer, sizeof buffer, NULL);
    void *first = moat_heap_alloc(heap, 100), *second = moat_heap_alloc(heap, 200);
    int good = first && second && moat_heap_free(heap, first) && moat_heap_free(heap, second) && !moat_heap_free(heap, first);
    puts(good && moat_heap_verify(heap, NULL) ? "the heap works" : "the heap does not work");
    return !good;
}
SOURCE

check "make install" make_with install PREFIX="$prefix"
check "make install with DESTDIR" make_with install PREFIX=/usr DESTDIR="$work/stage"
for file in bin/moat lib/libmoat.so lib/libmoat.a lib/pkgconfig/moat.pc include/moat/heap.h share/man/man1/moat.1 \
    share/man/man3/moat.3 share/man/man7/moat-options.7; do
    check "$file is installed" test -s "$prefix/$file"
    check "$file is staged" test -s "$work/stage/usr/$file"
done
version=$(sed -n 's/^.define MOAT_VERSION "\(.*\)"/\1/p' include/moat/version.h)
check "the command says its version" says 0 "$version" "$prefix/bin/moat" --version
check "pkg-config says its version" says 0 "$version" pkg-config --modversion moat
for page in "$prefix"/share/man/man*/*; do
    check "${page##*/} is formatted without warnings" bash -c \
        'text=$(groff -man -Tutf8 -ww -b "$1" 2>&1 >/dev/null); echo "$text"; [ -z "$text" ]' shell "$page"
    check "${page##*/} has no placeholder left" bash -c '! grep -n "@[A-Z]*@" "$1"' shell "$page"
done

check "a plain program builds" ${CC:-gcc} -g -O0 -fno-builtin -w -o "$work/plain" "$work/bug.c"
check "moat run from the prefix" says 134 bug.c:6 "$prefix/bin/moat" run -- "$work/plain"
check "preloading from the prefix" says 134 heap-buffer-overflow env LD_PRELOAD="$prefix/lib/libmoat.so" "$work/plain"
# shellcheck disable=SC2046 # words are meant
check "a program with Moat linked in builds" ${CC:-gcc} -g -O0 -fno-builtin -w -o "$work/linked" "$work/bug.c" $(flags)
check "the linked program reports" says 134 heap-buffer-overflow "$work/linked"
check "moat run names its lines" says 134 bug.c:6 "$prefix/bin/moat" run -- "$work/linked"
# shellcheck disable=SC2046
check "a static program builds" ${CC:-gcc} -static -g -O0 -fno-builtin -w -o "$work/static" "$work/bug.c" $(flags)
check "the static program reports" says 134 heap-buffer-overflow "$work/static"
check "moat run names the static program's lines" says 134 bug.c:6 "$prefix/bin/moat" run -- "$work/static"
# shellcheck disable=SC2046
check "a static C++ program builds" ${CXX:-g++} -static -g -O0 -w -o "$work/static++" "$work/bug.cpp" $(flags)
cp "$work/log" "$work/words"
check "a static C++ program links without a word" diff "$work/words" /dev/null
check "the static C++ program reports" says 134 alloc-dealloc-mismatch "$work/static++"
# shellcheck disable=SC2046
check "a C++ program with Moat linked in builds" ${CXX:-g++} -g -O0 -w -o "$work/linked++" "$work/bug.cpp" $(flags)
check "the linked C++ program reports" says 134 alloc-dealloc-mismatch "$work/linked++"
# shellcheck disable=SC2046
check "the heap as a library builds" ${CC:-gcc} -g -O1 -Wall -Wextra -Werror -o "$work/heap" "$work/heap.c" \
    $(pkg-config --cflags moat) -L"$prefix/lib" -l:libmoat.a
check "the heap as a library works" says 0 "the heap works" "$work/heap"
check "make uninstall" make_with uninstall PREFIX="$prefix"
check "nothing is left behind" bash -c '[ -z "$(find "$1" -type f)" ]' shell "$prefix"
check "make help" says 0 "make setup test" make help
check "setup runs before what goes with it" bash -c '
    [ "$(make -n -j4 setup test | sed -n 1p)" = tests/setup.sh ]'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
