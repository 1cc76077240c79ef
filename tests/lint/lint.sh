#!/bin/bash
# Everything `make lint` checks: format, include directions, the libraries' outside, cppcheck, clang-tidy.
# Goes through all of them and fails if any of them did.
set -u
cd "$(dirname "$0")/../.."
bad=()
mapfile -t sources < <(find include src guard fuzz tests -name '*.[ch]' -o -name '*.cpp' | sort)
mapfile -t units < <(find src guard -name '*.c' | sort)
include_flags=(-Iinclude -I.)

step() {
    local what=$1
    shift
    if "$@"; then
        echo "lint: $what: good"
    else
        echo "lint: $what: FAILED"
        bad+=("$what")
    fi
}
# A file at a time: in one run, files would share the first one's settings.
tidy() {
    printf '%s\n' "${units[@]}" | xargs -P "$(nproc)" -n 1 sh -c \
        'clang-tidy --quiet "$1" -- -std=gnu11 -Iinclude -I. 2>/dev/null' clang-tidy
}

# Code is clang-format's affair; this is for comments, which it leaves alone.
width() {
    ! grep -nE '^.{133,}' "${sources[@]}"
}

step "width" width
step "format" clang-format --dry-run -Werror "${sources[@]}"
step "include directions" tests/lint/includes.py
step "libraries from outside" tests/lint/shape.sh
step "cppcheck" cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
    --suppressions-list=tests/lint/cppcheck.txt "${include_flags[@]}" "${units[@]}"
step "clang-tidy" tidy
if [ ${#bad[@]} -ne 0 ]; then
    echo "lint: failed: ${bad[*]}"
    exit 1
fi
echo "lint: all good"
