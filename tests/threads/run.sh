#!/bin/bash
# Threads and processes: the entry layer built with ThreadSanitizer under prefixed names, and the preload library as it is.
# Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
here=tests/threads
build=$(realpath "${MOAT_BUILD:-build}")
cc=${CC:-gcc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
failed=0
unset MOAT_OPTIONS LD_PRELOAD
more=1
[ "${1-}" = --deep ] && more=20

# check NAME COMMAND...: the command must succeed and say nothing.
check() {
    local name=$1 output status
    shift
    output=$("$@" 2>&1)
    status=$?
    if [ $status -eq 0 ] && [ -z "$output" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL $name: status $status"
        sed 's/^/    | /' <<<"$output" | head -n 60
    fi
}

# ---- with ThreadSanitizer --------------------------------------------------------------------------------------------------
# Every part is compiled with it. The entry layer's functions, which would take over the sanitizer's own, are renamed: all it
# exports but what is called moat_ already. Left out is what needs to be the preload library, as in the static one.
sanitise=(-std=gnu11 -O1 -g -fsanitize=thread -fno-omit-frame-pointer -Iinclude -I. -fno-builtin-malloc -fno-builtin-free)
# gcc warns of fences, which the sanitizer does not follow; clang does not know that warning.
$cc -Werror -Wno-tsan -xc -fsyntax-only /dev/null 2>/dev/null && sanitise+=(-Wno-tsan)
sanitised_build() {
    local compile object
    mkdir -p "$work/tsan"
    compile="$cc ${sanitise[*]} -c"
    find src guard -name '*.c' ! -path 'guard/cli/*' ! -path '*/entry/preload.c' ! -path '*/entry/spawn.c' |
        xargs -P "$(nproc)" -I SOURCE sh -c "$compile SOURCE -o $work/tsan/\$(echo SOURCE | tr / _).o" || return 1
    nm -g --defined-only "$work"/tsan/guard_entry_*.o | awk 'NF == 3 && $3 !~ /^moat_/ { print $3, "moat_test_" $3 }' |
        sort -u >"$work/renamed"
    for object in "$work"/tsan/*.o; do
        objcopy --redefine-syms="$work/renamed" "$object" || return 1
    done
    $cc "${sanitise[@]}" -DMOAT_TEST_PREFIXED -o "$work/stress-tsan" $here/stress.c "$work"/tsan/*.o -lpthread -ldl || return 1
    $cc "${sanitise[@]}" -o "$work/depot-tsan" $here/depot.c guard/engine/depot.c -lpthread
}
export TSAN_OPTIONS="exitcode=66:halt_on_error=0:die_after_fork=0:report_thread_leaks=0:history_size=4"
# The leak check would search the sanitizer's shadow memory; handlers of signals are the sanitizer's.
options="leak_check=0:handle_signals=0"
check "building with ThreadSanitizer" sanitised_build
check "depot: threads intern at once" "$work/depot-tsan"
check "sanitised: 6 threads" env MOAT_OPTIONS=$options "$work/stress-tsan" 6 $((6000 * more)) run
check "sanitised: 1 shard" env MOAT_OPTIONS=$options:shards=1 "$work/stress-tsan" 6 $((4000 * more)) run
check "sanitised: 5 shards, no quarantine" \
    env MOAT_OPTIONS=$options:shards=5:quarantine=0:quarantine_far=0 "$work/stress-tsan" 6 $((4000 * more)) run
check "sanitised: threads come and go" env MOAT_OPTIONS=$options "$work/stress-tsan" 2 $((3000 * more)) few-churn
check "sanitised: forks while threads run" env MOAT_OPTIONS=$options "$work/stress-tsan" 3 $((3000 * more)) fork
check "sanitised: two threads free one block" \
    env MOAT_OPTIONS=$options:report=/dev/null "$work/stress-tsan" 0 0 racing

# ---- preloaded --------------------------------------------------------------------------------------------------------------
plain=(-std=gnu11 -O2 -g -Iinclude -rdynamic)
$cc "${plain[@]}" -o "$work/stress" $here/stress.c -lpthread -ldl || exit 1
$cc "${plain[@]}" -shared -fPIC -o "$work/library.so" $here/library.c || exit 1
$cc "${plain[@]}" -o "$work/chain" $here/chain.c || exit 1
preloaded() { env LD_PRELOAD="$build/libmoat.so" "$@"; }

check "8 threads" preloaded MOAT_OPTIONS=leak_exitcode=23 "$work/stress" 8 $((40000 * more)) run
check "8 threads, 1 shard" preloaded MOAT_OPTIONS=shards=1:leak_exitcode=23 "$work/stress" 8 $((20000 * more)) run
check "8 threads, every realloc moves, long quarantine" \
    preloaded MOAT_OPTIONS=realloc_moves=always:quarantine=64M:large=65536 "$work/stress" 8 $((20000 * more)) run
check "8 threads, few large blocks" preloaded MOAT_OPTIONS=large=65536:large_blocks=20 "$work/stress" 8 $((20000 * more)) run
check "2,000 threads come and go" preloaded MOAT_OPTIONS=leak_exitcode=23 "$work/stress" 2 $((20000 * more)) churn
check "forks while threads run" preloaded "$work/stress" 4 $((30000 * more)) fork
check "vfork, exec and spawn while threads run" preloaded "$work/stress" 4 $((20000 * more)) exec
check "dlopen and dlclose while threads run" preloaded "$work/stress" 4 $((20000 * more)) "dlopen=$work/library.so"
check "all at once" preloaded "$work/stress" 8 $((20000 * more)) fork few-churn exec "dlopen=$work/library.so" fork
check "two threads free one block" preloaded MOAT_OPTIONS=report=/dev/null "$work/stress" 0 0 racing

# A list of a million links. The stack is small, so that a recursive scan would run over it.
chain() {
    (ulimit -s 256 && LD_PRELOAD=$build/libmoat.so MOAT_OPTIONS=format=json:leak_exitcode=23:report="$work/chain.json" "$work/chain")
    [ $? -eq 23 ] || echo "the leak was not found"
    grep -c '"kind":"memory-leak"' "$work/chain.json" | grep -qx 1 || echo "not one leak"
    grep -q '"blocks":1,"bytes":16' "$work/chain.json" || cat "$work/chain.json"
    grep -q '999999' "$work/chain.json" || cat "$work/chain.json"
}
check "a leaked list of a million links" chain

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
