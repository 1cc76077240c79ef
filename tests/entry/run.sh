#!/bin/bash
# The entry layer around malloc itself: exec functions, suppressions, statistics, jemalloc's names. Programs run with the
# library preloaded; glibc, run plainly, is the judge of what must stay as it was. Ends with "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
here=$PWD/tests/entry
build=$(realpath "${MOAT_BUILD:-build}")
library=$build/libmoat.so
cc=${CC:-gcc}
work=$(mktemp -d)
trap 'chmod -R u+rwx "$work"; rm -rf "$work"' EXIT
passed=0
failed=0
unset MOAT_OPTIONS LD_PRELOAD

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAIL $1"
    [ $# -gt 1 ] && sed 's/^/    | /' <<<"$2" | head -n 40
}
# check NAME COMMAND...: passes when the command succeeds; otherwise its output is shown.
check() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then pass; else fail "$name" "$output"; fi
}
# same NAME EXPECTED GOT
same() {
    if [ "$2" = "$3" ]; then pass; else fail "$1" "$(diff <(echo "$2") <(echo "$3"))"; fi
}
# Counts the verdicts of one of our programs, which must have some and end with 0.
verdicts() {
    local status=0
    "${@:2}" >"$work/verdicts" 2>"$work/reports" || status=$?
    passed=$((passed + $(grep -c '^pass ' "$work/verdicts")))
    while read -r line; do fail "$1: ${line#FAIL }"; done < <(grep '^FAIL ' "$work/verdicts")
    [ "$status" -eq 0 ] && grep -q '^pass ' "$work/verdicts" || fail "$1 ended with status $status" "$(tail -n 20 "$work/reports")"
}

build_program() {
    $cc -std=gnu11 -Wall -Wextra -Werror -Wno-deprecated-declarations -O1 -g -fno-builtin -rdynamic -Iinclude \
        -o "$work/$1" "$here/$1.c" -pthread || { fail "$1 does not compile"; echo "$passed passed, $failed failed"; exit 1; }
}

# ---- exec and spawn --------------------------------------------------------------------------------------------------
# What exec_calls expects to find around it.
prepare_executables() {
    mkdir -p bin denied closed
    printf '#!/bin/sh\necho "show: $# $1 $2 GIVEN=$GIVEN"\nexit 3\n' >bin/show
    cp bin/show here
    cp bin/show bin/twice
    cp bin/show bin/script
    cp bin/show closed/show
    printf 'echo "bare: $# $1 $2 GIVEN=$GIVEN"\nexit 4\n' >bin/bare
    : >bin/empty
    printf '#!/no/such/interpreter\n' >bin/orphan
    chmod +x bin/* here closed/show
    echo text >plain
    echo text >denied/twice
    ln -s loop loop
    ln -s nowhere broken
    chmod 0 closed
}

# Where its output differs only in which descriptors were free.
calls() { "$@" 2>&1 | sed 's#/dev/fd/[0-9]*#/dev/fd/N#g'; }

test_exec() {
    local mode expected lines
    for mode in fork vfork thread; do
        expected=$(calls ./exec_calls "$mode")
        lines=$(wc -l <<<"$expected")
        [ "$lines" -gt 400 ] && pass || fail "exec_calls $mode said only $lines lines"
        same "exec functions after $mode end as glibc's" "$expected" "$(LD_PRELOAD=$library calls ./exec_calls "$mode")"
        same "exec functions after $mode, watched" "$expected" \
            "$(calls "$build/moat" run -o leak_check=0 -- ./exec_calls "$mode" 2>&1 | grep -v '^moat: not checked:')"
    done
}

# records NAME EXPECTED COMMAND...: what the processes say through the spool; the order of a spawned child's check-in and
# its parent's word of it is open.
records() {
    local name=$1 expected=$2 got
    shift 2
    got=$("$here/spool.py" "$library" "$@" 2>&1)
    case $name in *spawn*) got=$(sort <<<"$got") expected=$(sort <<<"$expected") ;; esac
    same "$name" "$expected" "$got"
}

test_records() {
    records "fork and exec" "p1 check-in $(basename "$(realpath /bin/sh)") [sh -c /bin/true; exec /bin/echo x]
p2 exec p2 /bin/true
p2 check-in true [/bin/true]
p1 exec p1 /bin/echo
p1 check-in echo [/bin/echo x]
status 0" sh -c '/bin/true; exec /bin/echo x'
    local shell
    shell=$(basename "$(realpath /bin/sh)")
    called() { echo "p1 check-in exec_calls [./exec_calls call $*]"; }
    records "vfork and execvp, the second directory" "$(called execvp twice denied:bin)
p2 exec p2 DIR/denied/twice
p2 exec-gone p2 DIR/denied/twice
p2 exec p2 DIR/bin/twice
p2 check-in $shell [/bin/sh bin/twice one two words]
status 0" ./exec_calls call execvp twice denied:bin
    records "execvpe of nothing executable" "$(called execvpe twice denied:)
p2 exec p2 DIR/denied/twice
p2 exec-gone p2 DIR/denied/twice
status 0" ./exec_calls call execvpe twice denied:
    records "execlp of a file for the shell" "$(called execlp bare bin)
p2 exec p2 DIR/bin/bare
p2 exec-gone p2 DIR/bin/bare
p2 exec p2 /bin/sh
p2 check-in $shell [/bin/sh bin/bare one two words]
status 0" ./exec_calls call execlp bare bin
    records "execve of what is not there" "$(called execve ./no)
status 0" ./exec_calls call execve ./no
    records "execveat of a descriptor" "$(called execveat-empty /bin/true)
p2 exec p2 $(realpath /bin/true)
p2 check-in true [zero one two words]
status 0" ./exec_calls call execveat-empty /bin/true
    local function
    for function in execve execv execl execle execveat; do
        records "$function" "$(called "$function" /bin/true)
p2 exec p2 /bin/true
p2 check-in true [zero one two words]
status 0" ./exec_calls call "$function" /bin/true
    done
    records "fexecve" "$(called fexecve /bin/true)
p2 exec p2 $(realpath /bin/true)
p2 check-in true [zero one two words]
status 0" ./exec_calls call fexecve /bin/true
    local deep whole=$PWD cut
    deep=$(printf 'deep%.0s' {1..50})
    mkdir -p "$deep/$deep/$deep"
    cp bin/show "$deep/$deep/$deep/show"
    whole=$whole/$deep/$deep/$deep/show
    cut=${whole:0:511} # what there is room for
    records "a path that is too long for a record" "$(called execv "$deep/$deep/$deep/show")
p2 exec p2 ${cut/#$PWD/DIR}
p2 check-in $shell [/bin/sh $deep/$deep/$deep/show one two words]
status 0" ./exec_calls call execv "$deep/$deep/$deep/show"
    records "posix_spawn" "$(called posix_spawn bin/show)
p1 exec p2 DIR/bin/show
p2 check-in $shell [/bin/sh bin/show one two words]
status 0" ./exec_calls call posix_spawn bin/show
    records "posix_spawnp" "$(called posix_spawnp show nowhere:bin)
p1 exec p2 DIR/bin/show
p2 check-in $shell [/bin/sh bin/show one two words]
status 0" ./exec_calls call posix_spawnp show nowhere:bin
    records "posix_spawnp of what is not there" "$(called posix_spawnp none bin)
status 0" ./exec_calls call posix_spawnp none bin
}

# A program that Moat cannot enter is named, whichever way it was started, and nothing else is.
test_not_covered() {
    local way
    printf 'int main(void) { return 0; }\n' >still.c
    $cc -static -o still still.c
    for way in execve execvp posix_spawn posix_spawnp; do
        same "a static program started by $way" "moat: not checked: $PWD/still (statically linked)" \
            "$("$build/moat" run -o leak_check=0 -- ./exec_calls call "$way" ./still 2>&1 >/dev/null)"
        same "a covered program started by $way" "" \
            "$("$build/moat" run -o leak_check=0 -- ./exec_calls call "$way" /bin/true 2>&1 >/dev/null)"
    done
}

# ---- suppressions ----------------------------------------------------------------------------------------------------
# suppressed RULES BUG...: nothing is reported of the bugs; reported RULES BUG...: something is.
suppressed() {
    local said
    printf '%b' "$1" >rules
    said=$(MOAT_OPTIONS=suppressions=rules LD_PRELOAD=$library ./bugs "${@:2}" 2>&1)
    same "\"$1\" suppresses ${*:2}" "status 0" "${said}status $?"
}
reported() {
    local said
    printf '%b' "$1" >rules
    said=$(MOAT_OPTIONS=suppressions=rules:on_error=continue LD_PRELOAD=$library ./bugs "${@:2}" 2>&1)
    grep -q 'bug id' <<<"$said" && pass || fail "\"$1\" must not suppress ${*:2}" "$said"
}
# refused RULES MESSAGE: the start is stopped, with one line that says so.
refused() {
    local said
    printf '%b' "$1" >rules
    said=$(MOAT_OPTIONS=suppressions=rules LD_PRELOAD=$library ./bugs 2>&1)
    same "\"$1\" is refused" "moat: suppressions rules:$2 status 125" "$said status $?"
}

test_suppressions() {
    local bug id said
    reported '' leak
    reported '# memory-leak:forget_block\n\n' leak
    suppressed 'memory-leak:forget_block\n' leak
    suppressed 'memory-leak:forget_block' leak
    suppressed '\t memory-leak : forget_block \r\n' leak
    suppressed '# why\n\n*:nothing\n*:forget_block\n' leak
    suppressed 'memory-leak:forget_*' leak
    suppressed 'memory-leak:*_block' leak
    suppressed 'memory-leak:*g*t*b*k' leak
    suppressed 'memory-leak:*' leak
    suppressed '*:*' leak overflow stale twice
    suppressed '*:bugs' leak overflow stale twice
    suppressed '*:*/bugs' leak overflow stale twice
    suppressed "*:$PWD/bugs" leak overflow stale twice
    suppressed 'heap-buffer-overflow:write_past' overflow
    suppressed 'heap-buffer-overflow:make_block' overflow # where it was allocated
    suppressed 'heap-use-after-free:release' stale        # where it was freed
    suppressed 'heap-use-after-free:make_block' stale
    suppressed 'double-free:free_twice' twice
    reported 'memory-leak:forget_bloc' leak
    reported 'memory-leak:orget_block' leak
    reported 'memory-leak:forget_block*x' leak
    reported 'memory-leak:f*x*k' leak
    reported 'heap-buffer-overflow:forget_block' leak
    reported '*:bug' leak
    reported '*:libmoat.so' overflow # Moat's own frames are none
    reported 'double-free:make_block' twice # not what tells this bug apart
    reported 'heap-buffer-overflow:*' leak overflow
    for bug in leak overflow stale twice; do
        : >rules
        said=$(MOAT_OPTIONS=on_error=continue LD_PRELOAD=$library ./bugs "$bug" 2>&1)
        id=$(sed -n 's/^ *bug id \([0-9a-f]*\)$/\1/p' <<<"$said")
        [ ${#id} -eq 8 ] && pass || fail "$bug has a bug id" "$said"
        suppressed "*:$id" "$bug"
        suppressed "*:${id^^}" "$bug"
        reported "*:${id:0:7}" "$bug"
        reported "*:$(tr 0-9a-f 1-9a-f0 <<<"$id")" "$bug"
    done
    refused 'memory-leek:f' '1: unknown kind "memory-leek"; did you mean memory-leak?'
    refused '*:f\n\nheap-use:f' "3: unknown kind \"heap-use\": it is * or a finding's kind, such as memory-leak"
    refused '*:f\nforget_block\n' '2: no colon in "forget_block": a suppression is kind:pattern'
    refused '#\n*:\n' '2: no pattern behind the colon: name a function, a module or a bug id, or write *'
    refused ':f' "1: unknown kind \"\": it is * or a finding's kind, such as memory-leak"
    refused '*:a\n*:b\0c\n' '2: a NUL byte: this is not a text file'
    refused 'a\tb\001c' '1: no colon in "a?b?c": a suppression is kind:pattern'
    said=$(MOAT_OPTIONS=suppressions=/no/such/file LD_PRELOAD=$library ./bugs 2>&1)
    same "a file that is not there" "moat: suppressions /no/such/file: cannot be read: No such file or directory 125" "$said $?"
    said=$(MOAT_OPTIONS=suppressions=. LD_PRELOAD=$library ./bugs 2>&1)
    same "a directory" "moat: suppressions .: cannot be read: Is a directory 125" "$said $?"
    { awk 'BEGIN { for (i = 0; i < 100000; i++) print "memory-leak:no_such_function_" i }'; echo '*:forget_block'; } >many
    said=$(MOAT_OPTIONS=suppressions=many LD_PRELOAD=$library ./bugs leak 2>&1)
    same "the last of a hundred thousand rules" "" "$said"
    mkfifo rules-pipe
    (cat many >rules-pipe) &
    said=$(MOAT_OPTIONS=suppressions=rules-pipe LD_PRELOAD=$library ./bugs leak 2>&1)
    same "rules from a pipe" "" "$said"
    wait
}

# ---- statistics and names --------------------------------------------------------------------------------------------
test_info() {
    MOAT_OPTIONS=on_error=continue:quarantine_far=0 LD_PRELOAD=$library verdicts "info_calls" ./info_calls info.xml
    check "malloc_stats says what is in use" grep -q '^in use bytes     = *[0-9][0-9]*$' "$work/reports"
    same "mallopt answers as glibc's" "$(./info_calls mallopt)" "$(LD_PRELOAD=$library ./info_calls mallopt)"
    check "malloc_info writes XML whose sums agree" python3 - <<'END'
import xml.etree.ElementTree as tree
root = tree.parse("info.xml").getroot()
assert root.tag == "malloc" and root.get("version") == "1"
heaps = root.findall("heap")
assert heaps and [heap.get("nr") for heap in heaps] == [str(i) for i in range(len(heaps))]
size = lambda where, tag, kind: int(where.find(f"{tag}[@type='{kind}']").get("size"))
mmap = size(root, "total", "mmap")
assert mmap == 8 << 20, mmap
assert sum(size(heap, "system", "current") for heap in heaps) + mmap == size(root, "system", "current")
for kind in ("fast", "rest"):
    assert sum(size(heap, "total", kind) for heap in heaps) == size(root, "total", kind)
END
    MOAT_OPTIONS=on_error=continue LD_PRELOAD=$library verdicts "jemalloc_calls" ./jemalloc_calls
    local server names name
    server=$(command -v redis-server) || return
    names=$(nm -D --undefined-only "$server" | awk '{ sub(/@.*/, "", $2); print $2 }' | grep -E 'alloc|mallctl|^free$')
    for name in $names; do
        nm -D --defined-only "$library" | awk '{ print $3 }' | grep -qxF "$name" && pass || fail "redis-server imports $name"
    done
}

for program in exec_calls info_calls jemalloc_calls bugs; do
    build_program "$program"
done
cd "$work" || exit 1
prepare_executables
test_exec
test_records
test_not_covered
test_suppressions
test_info
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
