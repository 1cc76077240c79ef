#!/bin/bash
# Options that change how Moat works: at the start, while the program runs, as a build's own defaults; failures on purpose; the memory
# budget; statistics. Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/suite.sh
here=tests/tuning
warnings="-Wall -Wextra -Werror"

test_settings() {
    check "settings.c compiles" ${CC:-gcc} -std=gnu11 $warnings -O1 -g -fno-builtin -Iinclude -I. -o "$work/settings" $here/settings.c \
        -L"$build" -Wl,--undefined=malloc -l:libmoat.a -pthread
    verdicts "$work/settings"
}

# ---- failures on purpose ---------------------------------------------------------------------------------------------
test_failures() {
    check "fail.cpp compiles" ${CXX:-g++} -std=c++17 $warnings -O1 -g -fno-builtin -o "$work/fail" $here/fail.cpp
    add /usr/bin/python3 $here/fail.py "$build" "$work/fail" "$work"
}

# A program made for it survives each of its first allocations failing; what fails is all that Moat reports. Without -init it asks
# the C library for the home directory, which does not survive it.
test_sqlite() {
    local number bad=
    rm -f "$work"/sqlite.*
    one() {
        local number=$1 status=0
        MOAT_OPTIONS=leak_check=0:fail_after=$number:report=$work/sqlite.$number LD_PRELOAD=$build/libmoat.so \
            sqlite3 -init /dev/null :memory: <tests/tuning/table.sql >"$work/sqlite.out.$number" 2>&1 || status=$?
        [ "$status" -lt 128 ] && [ "$(grep ' moat: .* in sqlite3' "$work/sqlite.$number" | sed 's/.*: //')" = "out-of-memory in sqlite3" ] ||
            echo "$number:$status"
    }
    export -f one
    export work build
    bad=$(seq 300 | xargs -P "$(nproc)" -I{} bash -c 'one {}')
    same "sqlite3 survives any of its first 300 allocations failing" "" "$bad"
    rm -f "$work"/sqlite.*
}

# ---- a build's own defaults --------------------------------------------------------------------------------------------
defaults() { # FLAGS...: prints the defaults of the option table compiled with these
    ${CC:-gcc} -std=gnu11 $warnings -Iinclude -I. "$@" -o "$work/defaults" $here/defaults.c guard/option/option.c && "$work/defaults"
}
test_defaults() {
    local plain built header
    plain=$(defaults)
    same "a build without defaults of its own has the table's" "$("$build/moat" options | awk 'NR > 1 && $2 != "" && /^[a-z]/ { print $1 }')" \
        "$(sed 's/=.*//' <<<"$plain")"
    built=$(defaults -DMOAT_DEFAULT_redzone=64 -DMOAT_DEFAULT_quarantine=1M -DMOAT_DEFAULT_on_error=continue \
        -DMOAT_DEFAULT_summary=true -DMOAT_DEFAULT_secret=0xff -DMOAT_DEFAULT_report=/tmp/moat.%p)
    same "defaults on the command line" "$(sed -e 's/^redzone=.*/redzone=64/; s/^quarantine=.*/quarantine=1M/; s/^secret=.*/secret=255/' \
        -e 's/^on_error=.*/on_error=continue/; s/^summary=.*/summary=1/; s|^report=.*|report=/tmp/moat.%p|' <<<"$plain")" "$built"
    same "a default out of range" "error: MOAT_DEFAULT_redzone is out of range: it takes 1 to 4K bytes" \
        "$(defaults -DMOAT_DEFAULT_redzone=5000)"
    same "a default that is no word of the choice" "error: MOAT_DEFAULT_on_error is none of abort|continue|exit" \
        "$(defaults -DMOAT_DEFAULT_on_error=perhaps)"
    "$build/moat" options --config >"$work/as_it_is.h"
    same "moat options --config is a header" "$plain" "$(defaults -DMOAT_CONFIG_HEADER="\"$work/as_it_is.h\"")"
    sed 's#^//##' "$work/as_it_is.h" >"$work/all_given.h"
    same "all of it given is what it is" "$plain" "$(defaults -DMOAT_CONFIG_HEADER="\"$work/all_given.h\"")"
    sed 's#^//\(.*redzone\).*#\1 100#' "$work/as_it_is.h" >"$work/one_given.h"
    same "one of it given" "$(sed 's/^redzone=.*/redzone=100/' <<<"$plain")" "$(defaults -DMOAT_CONFIG_HEADER="\"$work/one_given.h\"")"
}

# ---- budget ----------------------------------------------------------------------------------------------------------------
test_budget() {
    local budget most lost note
    check "budget.c compiles" ${CC:-gcc} -std=gnu11 $warnings -O1 -g -fno-builtin -Iinclude -o "$work/budget" $here/budget.c \
        -L"$build" -Wl,--undefined=malloc -l:libmoat.a -pthread
    for budget in 0 1048576 2097152 4194304 8388608 16777216 67108864; do
        read -r most lost < <(MOAT_OPTIONS=leak_check=0:shards=1:budget=$budget:quarantine=4M "$work/budget" 2>"$work/note")
        note=$(grep -c 'the memory budget was met' "$work/note")
        if [ "$budget" = 0 ] || [ "$budget" = 67108864 ]; then
            # Without a limit in the way everything is kept, and it is more than what the other budgets leave room for.
            [ "$most" -gt 16777216 ] && [ "$lost" = 0 ] && [ "$note" = 0 ] && pass || fail "budget=$budget is not in the way"
        else
            [ "$most" -gt $((budget / 3)) ] && [ "$most" -le "$budget" ] && pass || fail "budget=$budget: $most bytes"
            [ "$note" = 1 ] && pass || fail "budget=$budget: not said" "$(cat "$work/note")"
        fi
    done
}

# ---- the line at exit ----------------------------------------------------------------------------------------------------------
test_line() {
    local line n='[0-9]{1,3}(,[0-9]{3})*'
    line=$(MOAT_OPTIONS=stats=1:leak_check=0 LD_PRELOAD=$build/libmoat.so sqlite3 :memory: 'select 1' 2>&1 >"$work/out" | grep statistics)
    [[ $line =~ ^==[0-9]+==\ moat:\ statistics:\ bytes\ live\ $n\ in\ blocks\ $n,\ peak\ $n\;\ allocations\ $n,\ frees\ $n\;\ overhead:\ headers\ $n,\ zones\ $n,\ quarantine\ $n,\ stacks\ $n,\ map\ $n\;\ heap\ $n,\ free\ $n,\ largest\ free\ $n,\ fragmentation\ [0-9]+\.[0-9]\ %$ ]] &&
        pass || fail "the line of stats=1" "$line"
    same "stats=1 changes nothing else" 1 "$(cat "$work/out")"
    same "without stats there is none" "" "$(MOAT_OPTIONS=leak_check=0 LD_PRELOAD=$build/libmoat.so sqlite3 :memory: 'select 1' 2>&1 >"$work/out")"
}

test_settings
test_failures
test_sqlite
test_defaults
test_budget
test_line

finish
