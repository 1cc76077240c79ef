#!/bin/sh
# Installs every Debian package that building and testing Moat need, only those that are missing.
# Off Debian it lists them and stops: their names differ elsewhere, and guessing would half-install something.
set -eu

build="make gcc g++ libc6-dev binutils pkg-config libdw-dev libelf-dev"
# Compilers and checkers the tests use: a second compiler, a 32-bit target, test runner, unwinder (loaded at run time).
check="gcc-12-multilib clang clang-format clang-tidy cppcheck libcriterion-dev libunwind8 libunwind-dev man-db procps"
# Real programs that the tests run under Moat.
programs="sqlite3 python3 perl lua5.4 jq git xz-utils redis-server redis-tools gdb nodejs tar gzip mawk bash file"
# Allocators that `make bench` compares the heap with.
rivals="libjemalloc2 libmimalloc2.0"
packages="$build $check $programs $rivals"

distribution=unknown
if [ -r /etc/os-release ]; then
    distribution=$(. /etc/os-release && echo "${ID:-unknown}")
fi
if [ "$distribution" != debian ] || ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    echo "make setup: this is not Debian ($distribution). Moat needs what these Debian 12 packages contain:" >&2
    echo "$packages" | tr ' ' '\n' | sed 's/^/    /' >&2
    exit 1
fi

missing=""
for package in $packages; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -z "$missing" ]; then
    echo "make setup: every package is there"
    exit 0
fi

as_root=""
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "make setup: not root and no sudo; as root: apt-get install$missing" >&2
        exit 1
    fi
    as_root=sudo
fi
echo "make setup: installing$missing"
$as_root apt-get -o Acquire::Retries=3 update -q
# shellcheck disable=SC2086 # a list of words is meant
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 install -q -y --no-install-recommends $missing
