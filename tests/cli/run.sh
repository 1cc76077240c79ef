#!/bin/bash
# Tests of the `moat` command by itself: command lines, statuses, signals, the spool, names of frames. The programs that it
# runs here report by themselves (fake_child.c), so that no preload library is needed.
# Usage: run.sh [--deep]; the build is in $MOAT_BUILD, the compiler in $CC.
set -u
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
build=${MOAT_BUILD:-$top/build}
case $build in /*) ;; *) build=$top/$build ;; esac
moat=${MOAT_COMMAND:-$build/moat}
cc=${CC:-gcc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 711 "$work"
passed=0
failed=0

pass() { passed=$((passed + 1)); }
fail() {
    failed=$((failed + 1))
    echo "FAILED: $1"
    head -n 8 "$work/out" | sed 's/^/    out: /'
    head -n 16 "$work/err" | sed 's/^/    err: /'
}

# run_it WANTED_STATUS NAME COMMAND...: output goes to $work/out and $work/err.
name=
run_it() {
    local wanted=$1 status
    name=$2
    shift 2
    "$@" >"$work/out" 2>"$work/err" </dev/null
    status=$?
    if [ "$status" -eq "$wanted" ]; then pass; else fail "$name: status $status instead of $wanted"; fi
}
says() { if grep -qE -- "$1" "$work/err"; then pass; else fail "$name: standard error lacks $1"; fi; }
says_not() { if grep -qE -- "$1" "$work/err"; then fail "$name: standard error has $1"; else pass; fi; }
prints() { if grep -qE -- "$1" "$work/out"; then pass; else fail "$name: standard output lacks $1"; fi; }
one_line() {
    if [ "$(wc -l <"$work/err")" -eq 1 ]; then pass; else fail "$name: standard error is not one line"; fi
}
counts() { # N PATTERN FILE
    local got
    got=$(grep -cE -- "$2" "$3")
    if [ "$got" -eq "$1" ]; then pass; else fail "$name: $got lines of $2 instead of $1"; fi
}
holds() { # NAME COMMAND...
    local what=$1
    shift
    if "$@" >/dev/null 2>&1; then pass; else fail "$name: $what"; fi
}

build_programs() {
    local parts="$top/guard/report/spool.c $top/guard/report/spool_file.c $top/guard/option/option.c"
    cd "$top" || exit 1
    # shellcheck disable=SC2086
    $cc -std=gnu11 -O2 -g -Wl,--build-id -I. -Iinclude -o "$work/fake" tests/cli/fake_child.c $parts &&
        $cc -std=gnu11 -O2 -g -Wl,--build-id -static -I. -Iinclude -o "$work/static" tests/cli/fake_child.c $parts &&
        $cc -std=gnu11 -O2 -g -Wl,--build-id=uuid -I. -Iinclude -o "$work/other" tests/cli/fake_child.c $parts &&
        strip --strip-debug -o "$work/nodebug" "$work/fake" &&
        strip -o "$work/nosymbols" "$work/fake" &&
        echo 'int moat_test_nothing;' | $cc -shared -fPIC -x c -o "$work/libmoat.so" - || exit 1
    # shellcheck disable=SC2086
    gcc -m32 -isystem /usr/include/x86_64-linux-gnu -std=gnu11 -O2 -g -Wl,--build-id -I. -Iinclude \
        -o "$work/fake32" tests/cli/fake_child.c $parts 2>/dev/null || echo "no 32-bit compiler: its tests are left out"
}

build_programs
cd "$work" || exit 1
: >out
: >err
mkdir tmp
chmod 711 tmp
export TMPDIR=$work/tmp MOAT_LIBRARY=$work/libmoat.so
unset MOAT_OPTIONS LD_PRELOAD

# ---- the command line ----
run_it 0 version "$moat" --version
prints '^moat [0-9]+\.[0-9]+\.[0-9]+$'
run_it 0 help "$moat" --help
prints '^Usage: moat'
run_it 0 'help run' "$moat" help run
prints 'moat run \[OPTION\]'
run_it 0 'run --help' "$moat" run --help
prints 'moat run \[OPTION\]'
run_it 0 options "$moat" options
prints '^exitcode +66 +1 to 255 +[A-Z]'
prints '^quarantine +256K +0 to 16G +'
run_it 0 'options --man' "$moat" options --man
prints '^\.TH MOAT'
holds 'the manual page is clean roff' sh -c 'test -z "$(man --warnings -l out 2>&1 >/dev/null)" || ! command -v man'
run_it 125 'no command' "$moat"
one_line
run_it 125 'unknown command' "$moat" ruin
one_line
says '"ruin"'
run_it 125 'help for nothing' "$moat" help nothing
one_line
run_it 125 'no program' "$moat" run
one_line
run_it 125 'no program after --' "$moat" run --
one_line
run_it 125 'unknown option' "$moat" run --fromat json ./fake
one_line
says '"--fromat"'
run_it 125 'unknown key' "$moat" run -o quarantien=1 ./fake print=started
one_line
says 'quarantien.*did you mean quarantine\?'
says_not started
run_it 125 'value out of range' "$moat" run -o exitcode=700 ./fake
one_line
says 'exitcode=700.*1 to 255'
run_it 125 'no number' "$moat" run -oexitcode=many ./fake
one_line
says 'exitcode=many.*not a number'
run_it 125 'no choice' "$moat" run -o on_error=laugh ./fake
one_line
says 'abort\|continue\|exit'
run_it 125 '-o without value' "$moat" run -o
one_line
run_it 125 'unknown format' "$moat" run --format xml ./fake
one_line
run_it 125 'bad environment' env MOAT_OPTIONS=exitcode=0 "$moat" run ./fake
one_line
says 'MOAT_OPTIONS: .*exitcode=0'
run_it 125 'unwritable report' "$moat" run --report /nowhere/at/all ./fake print=started
one_line
says '/nowhere/at/all'
counts 0 started out
run_it 125 'unwritable report with pid' "$moat" run --report '/nowhere/%p' ./fake print=started
one_line
run_it 125 'no library' env MOAT_LIBRARY=/nowhere/libmoat.so "$moat" run ./fake
one_line

# ---- finding the program ----
printf '#!/nowhere/interpreter\n' >orphan
printf 'exit 5\n' >bare
printf 'text\n' >plain
printf '\177ELF-not-really' >broken
chmod +x orphan bare broken
mkdir adirectory
run_it 127 'not found' "$moat" run ./missing
one_line
says './missing: not found'
run_it 127 'not found in PATH' "$moat" run moat-test-missing
one_line
run_it 126 'not executable' "$moat" run ./plain
one_line
run_it 126 'a directory' "$moat" run ./adirectory
one_line
run_it 127 'interpreter missing' "$moat" run ./orphan
one_line
run_it 126 'no program at all' "$moat" run ./broken
run_it 5 'script without #!' "$moat" run ./bare
run_it 4 'found in PATH' env PATH="$work/adirectory:$work:$PATH" "$moat" run fake check-in exit=4
run_it 0 'after --' "$moat" run -- ./fake check-in
printf '#!/bin/sh\nexit 9\n' >-odd
chmod +x ./-odd
run_it 9 'program that begins with -' env PATH="$work:$PATH" "$moat" run -- -odd
run_it 126 'not executable in PATH' env PATH="$work" "$moat" run plain

# ---- statuses ----
run_it 0 'clean' "$moat" run ./fake check-in summary
counts 0 . err
run_it 0 'summary asked for' "$moat" run -o summary=1 ./fake check-in summary
says 'moat: clean: 12 allocations, no findings, no leaks$'
run_it 7 'status passed' "$moat" run ./fake check-in exit=7
run_it 3 'own status goes over findings' "$moat" run ./fake check-in overflow exit=3
says heap-buffer-overflow
run_it 66 'findings' "$moat" run ./fake check-in overflow
run_it 77 'findings, status chosen' "$moat" run -o exitcode=77 ./fake check-in overflow leak
run_it 23 'leak' "$moat" run ./fake check-in leak leaky-summary
says '3,400 bytes in 2 blocks were never freed'
says '2 blocks \(3,400 bytes\) leaked definitely'
run_it 23 'leak known by the summary alone' "$moat" run ./fake check-in leaky-summary
run_it 5 'leak, status chosen' "$moat" run -o leak_exitcode=5 ./fake check-in leak
run_it 0 'leak, status switched off' "$moat" run -o leak_exitcode=0 ./fake check-in leak
run_it 0 'possible leak' "$moat" run ./fake check-in possible summary
run_it 24 'leak check could not run' "$moat" run ./fake check-in unchecked-summary
says 'leak check did not run: other threads were running$'
run_it 23 'leak goes over a check that could not run' "$moat" run ./fake check-in leak unchecked-summary
run_it 0 'leak of a child' "$moat" run ./fake check-in fork check-in leak exit=0
says memory-leak
run_it 0 'finding of a child' "$moat" run ./fake check-in fork overflow
says heap-buffer-overflow
run_it 9 -- env MOAT_OPTIONS=exitcode=8 "$moat" run -o exitcode=9 ./fake check-in overflow

# ---- signals ----
run_it 143 'killed by TERM' "$moat" run ./fake check-in kill=15
run_it 139 'killed by SEGV' "$moat" run ./fake check-in kill=11
run_it 137 'killed by KILL' "$moat" run ./fake check-in kill=9
ulimit -S -c unlimited 2>/dev/null
run_it 0 'the program alone dumps core' python3 -c "
import os, sys
pid = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
status = os.waitpid(pid, 0)[1]
sys.exit(os.WTERMSIG(status) != 6 or os.WCOREDUMP(status))" "$moat" run ./fake check-in kill=6
ulimit -S -c 0
rm -f core*
printf '#!/bin/bash\nsignal=$1\ntrap '"'"'echo got $signal; exit 11'"'"' "$signal"\necho ready\nwhile :; do sleep 0.02; done\n' >trapper
chmod +x trapper
for signal in INT TERM HUP QUIT USR1; do
    # setsid: INT and QUIT are ignored in a script's background jobs otherwise, and traps of ignored signals do not count.
    name="forwarding $signal"
    python3 - "$moat" "$signal" >out 2>err <<'PYTHON'
import signal, subprocess, sys
process = subprocess.Popen([sys.argv[1], "run", "./trapper", sys.argv[2]], stdout=subprocess.PIPE,
                           preexec_fn=lambda: [signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGQUIT)])
process.stdout.readline()
process.send_signal(getattr(signal, "SIG" + sys.argv[2]))
print(process.stdout.read().decode().strip(), process.wait())
PYTHON
    if grep -q "^got $signal 11$" out; then pass; else fail "$name"; fi
done
run_it 0 'SIGCHLD ignored by the starter' python3 -c "
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])" "$moat" run ./fake check-in
run_it 0 'blocked and ignored signals arrive as they were' python3 -c "
import subprocess, sys
plain = subprocess.run(['grep', 'Sig[BIC]', '/proc/self/status'], capture_output=True).stdout
under = subprocess.run([sys.argv[1], 'run', 'grep', 'Sig[BIC]', '/proc/self/status'], capture_output=True).stdout
sys.exit(plain != under)" "$moat"

# ---- what is not covered ----
run_it 24 'static' "$moat" run ./static
one_line
says '^moat: not checked: ./static \(statically linked\)$'
run_it 3 'static, own status' "$moat" run ./static exit=3
says 'statically linked'
run_it 0 'static, but with Moat inside' "$moat" run ./static check-in
counts 0 . err
run_it 24 'never checks in' "$moat" run ./fake
says '\./fake \(did not load the library\)$'
printf '#!%s/static\n' "$work" >script
chmod +x script
run_it 95 'script' "$moat" run ./script
says '^moat: not checked: ./script \(statically linked\)$'
if [ -x fake32 ]; then
    run_it 24 'another class' "$moat" run ./fake32
    one_line
    says '\(another class of ELF\)$'
    run_it 66 'a 32-bit process hands over its report' "$moat" run ./fake32 check-in overflow
    says '^    #0 overflow_inlined +.*fake_child\.c:[0-9]+ \(inlined\)$'
fi
if [ "$(id -u)" -eq 0 ]; then
    cp fake setuid && chown 65534 setuid && chmod 4755 setuid
    run_it 24 'setuid' "$moat" run ./setuid
else
    run_it 24 'setuid' "$moat" run su --version
fi
says '\(setuid\)$'
run_it 0 'exec without check-in' "$moat" run ./fake check-in fork exec-note="$work/static"
says "^moat: not checked: $work/static \(statically linked\)$"
one_line
run_it 0 'exec that failed' "$moat" run ./fake check-in exec=/nowhere/program
counts 0 . err
run_it 24 'exec of the program itself into an uncovered one' "$moat" run ./fake check-in exec="$work/static"
one_line
run_it 0 'two execs, one line' sh -c "'$moat' run sh -c './fake check-in exec-note=/x; ./fake check-in exec-note=/x; exec ./fake check-in'"
counts 1 'not checked: /x ' err

# ---- reports ----
run_it 66 'names of frames' "$moat" run "$work/fake" check-in overflow
inlined=$(grep -n 'the inlined line' "$here/fake_child.c" | cut -d: -f1)
calling=$(grep -n 'the calling line' "$here/fake_child.c" | cut -d: -f1)
says "^    #0 overflow_inlined +(.*/)?tests/cli/fake_child.c:$inlined \(inlined\)$"
says "^    #1 overflow +(.*/)?tests/cli/fake_child.c:$calling$"
says '^    #0 0x[0-9a-f]+ \(in no known module\)$'
says '^==[0-9]+== moat: heap-buffer-overflow in fake$'
run_it 66 'no debug information' "$moat" run "$work/nodebug" check-in overflow
says '^    #0 overflow\+0x[0-9a-f]+ \(nodebug\)$'
run_it 66 'no symbols' "$moat" run "$work/nosymbols" check-in overflow
says '^    #0 nosymbols\+0x[0-9a-f]+$'
run_it 66 'another build' env FAKE_MODULE="$work/other" "$moat" run ./fake check-in overflow
says '^    #0 other\+0x[0-9a-f]+$'
run_it 66 json "$moat" run --format json ./fake check-in overflow leaky-summary note='a "note"' exec-note=/x
holds 'every line is JSON of schema 1' python3 -c "
import json
for line in open('err'): assert json.loads(line)['schema'] == 1"
holds 'the frames' python3 -c "
import json
frames = json.loads(open('err').readline())['stacks']['found']
assert [f['function'] for f in frames] == ['overflow_inlined', 'overflow'], frames
assert [f['line'] for f in frames] == [$inlined, $calling] and frames[0]['inlined'] and 'inlined' not in frames[1]
assert frames[0]['module'] == '$work/fake' and len(frames[0]['build_id']) == 40"
holds 'the events' python3 -c "
import json
kinds = [json.loads(line).get('event', 'finding') for line in open('err')]
assert kinds == ['finding', 'summary', 'note', 'not-covered'], kinds"
run_it 66 'report file' "$moat" run --report reports.txt ./fake check-in overflow
counts 0 . err
counts 1 heap-buffer-overflow reports.txt
run_it 66 'report file is appended to' "$moat" run --report=reports.txt ./fake check-in overflow
counts 2 heap-buffer-overflow reports.txt
run_it 66 'a report file for each process' "$moat" run -o report=r.%p.txt ./fake check-in overflow fork overflow
holds 'two files' sh -c 'test "$(ls r.*.txt | wc -l)" -eq 2'
run_it 66 'full disk' "$moat" run --report /dev/full ./fake check-in overflow
says '/dev/full.*standard error from here'
says heap-buffer-overflow
run_it 66 'standard error closed' sh -c "'$moat' run --report closed.txt ./fake check-in overflow 2>&-"
counts 1 heap-buffer-overflow closed.txt
run_it 66 'all closed' sh -c "'$moat' run ./fake check-in overflow <&- >&- 2>&-"
run_it 66 'reader of standard error gone' bash -c "'$moat' run ./fake check-in overflow 2> >(exec true); exit \$?"
run_it 66 colour "$moat" run -o colour=always ./fake check-in overflow
says "$(printf '\033')\[1;31mheap-buffer-overflow"
run_it 66 'no colour' "$moat" run ./fake check-in overflow
says_not "$(printf '\033')"

# ---- the spool ----
run_it 66 'damage in the spool' "$moat" run ./fake check-in junk overflow
says heap-buffer-overflow
says 'damaged on its way'
run_it 0 'many reports at once' "$moat" run bash -c 'for i in 1 2 3 4; do ./fake check-in flood=500 & done; wait; exec ./fake check-in'
counts 2000 'moat: flood [0-9]+$' err
run_it 24 'a file size limit' "$moat" run bash -c 'ulimit -f 1; exec ./fake untaken'
prints '^untaken$'
name='reader killed'
"$moat" run ./fake check-in pid sleep=300 untaken >out 2>err &
reader=$!
sleep 0.15
began=$(date +%s%N)
kill -9 $reader
wait $reader 2>/dev/null
sleep 0.4
prints '^untaken$'
rm -rf tmp/moat-*
name='reader stopped'
"$moat" run ./fake check-in sleep=200 untaken >out 2>err &
reader=$!
sleep 0.1
kill -STOP $reader
sleep 3
prints '^untaken$'
kill -CONT $reader
wait $reader
name='descendant lives on'
"$moat" run bash -c './fake check-in sleep=400 untaken & exec ./fake check-in' >out 2>err
holds 'spool is gone' sh -c '! ls tmp | grep -q .'
sleep 0.6
prints '^untaken$'
if [ "$(id -u)" -eq 0 ] && command -v setpriv >/dev/null; then
    chmod 755 fake
    run_it 66 'another user' "$moat" run setpriv --reuid 65534 --regid 65534 --clear-groups ./fake check-in overflow
    says heap-buffer-overflow
fi
mkdir 'a place'
cp libmoat.so 'a place/'
run_it 0 'library in a place with a blank' env MOAT_LIBRARY="$work/a place/libmoat.so" "$moat" run bash -c './fake check-in; env; grep -c "a place/libmoat.so" /proc/self/maps; exec ./fake check-in'
prints '^LD_PRELOAD=.*/moat-[A-Za-z0-9]+/libmoat.so$'
prints '^[1-9][0-9]*$'
run_it 0 'an LD_PRELOAD before' env LD_PRELOAD=/lib/x86_64-linux-gnu/libm.so.6 "$moat" run bash -c 'echo $LD_PRELOAD; exec ./fake check-in'
prints "^$work/libmoat.so:/lib/.*libm.so.6$"
mkdir 'tmp/a:b'
run_it 66 'a colon in TMPDIR' env TMPDIR="$work/tmp/a:b" "$moat" run ./fake check-in overflow
rmdir 'tmp/a:b'
name='leftovers'
holds 'nothing is left in TMPDIR' sh -c '! ls tmp | grep -q .'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
