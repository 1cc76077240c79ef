#!/bin/bash
# Real programs, each run plainly and under Moat: same output, same exit status (the leak status apart), nothing reported but
# leaks that are listed, with a reason, in leaks.txt. Usage: run.sh [--deep] [NAME...]
# --deep: every program, on inputs ten times as large.
set -u
cd "$(dirname "$0")/../.." || exit 1
top=$PWD
here=$top/tests/programs
build=$(realpath "${MOAT_BUILD:-build}")
inputs=$here/inputs
everyday="sqlite3 python perl lua jq git gcc g++ xz redis clang gdb node bash make tar gzip awk"
deep="$everyday clang++ git-gc-large python-compileall gcc-optimised"
leak_status=23
unchecked_status=24 # other threads were alive at the end: no leak check
run_seconds=${MOAT_RUN_LIMIT:-120}

# ---- one run ---------------------------------------------------------------------------------------------------------
# `under COMMAND...` runs a command plainly or under Moat, as $mode says, and prints its status. Everything else a scenario
# does is plain in both modes.
under() {
    local status
    if [ "$mode" = plain ]; then
        "$@"
        status=$?
    else
        "$build/moat" run -o summary=1 --format json --report "$report" -- "$@"
        status=$?
        case $status in "$leak_status" | "$unchecked_status") status=0 ;; esac
    fi
    echo "status of ${1##*/}: $status"
}

scenario_sqlite3() { under sqlite3 -batch ledger.db <"$top/tests/demo/ledger.sql"; }
scenario_python() { PYTHONMALLOC=malloc under /usr/bin/python3 -S "$inputs/work.py" "$scale"; }
scenario_python-compileall() {
    cp -r /usr/lib/python3.11/json /usr/lib/python3.11/asyncio .
    PYTHONMALLOC=malloc under /usr/bin/python3 -m compileall -q json asyncio
    find . -name '*.pyc' | sort
}
scenario_perl() { PERL_HASH_SEED=0 under perl "$inputs/work.pl" "$scale"; }
scenario_lua() { under lua5.4 "$inputs/work.lua" "$scale"; }
scenario_jq() {
    awk -v rows=$((scale * 500)) 'BEGIN {
        printf "["
        for (i = 0; i < rows; i++)
            printf "%s{\"n\":%d,\"name\":\"row%d\",\"town\":\"t%d\",\"tags\":[\"a%d\",\"b%d\"],\"deep\":{\"er\":[%d,{\"x\":null}]}}",
                   i ? "," : "", i, i, i % 7, i % 5, i % 11, i
        print "]" }' >rows.json
    under jq -f "$inputs/work.jq" rows.json
    under jq -c '.[] | select(.n < 3) | {n, name}' rows.json
    echo '{"broken": ' | under jq . 2>&1
}
git_setting() {
    export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=c
    export GIT_COMMITTER_EMAIL=c@example.org GIT_AUTHOR_DATE='2026-01-02T03:04:05Z' GIT_COMMITTER_DATE='2026-01-02T03:04:05Z'
}
git_history() {
    git_setting
    under git init -q -b main repository
    cd repository || return 1
    for ((i = 0; i < $1; i++)); do
        seq "$i" $((i * 3 + 40)) >"file$((i % 5)).txt"
        under git add .
        under git commit -q -m "Change $i"
    done
    under git checkout -q -b side HEAD~2
    echo side >side.txt
    under git add side.txt
    under git commit -q -m "On the side"
    under git checkout -q main
    under git merge -q --no-edit side
    under git log --stat --oneline --graph
    under git diff HEAD~3
    under git blame file0.txt
    under git gc -q
    under git fsck --full
    under git grep -n 17
    under git status --short
}
scenario_git() { git_history 6; }
scenario_git-gc-large() { git_history 40; }
compile() {
    cp "$inputs/table.c" "$inputs/shapes.cpp" .
    local compiler=$1 source=$2
    shift 2
    under "$compiler" "$@" -o built "$source"
    sha256sum built
    ./built
    sed 's/return 0;/return undeclared;/; s/<iostream>/<no_such_header>/' "$source" >"broken-$source"
    under "$compiler" -c "broken-$source" 2>&1
}
scenario_gcc() { compile gcc table.c -O1 -g; }
scenario_gcc-optimised() { compile gcc table.c -O3 -flto -g; }
scenario_g++() { compile g++ shapes.cpp -O0 -std=c++17 -pthread; }
scenario_clang() { compile clang table.c -O1; }
scenario_clang++() { compile clang++ shapes.cpp -O1 -std=c++17 -pthread; }
scenario_xz() {
    seq 1 $((scale * 150000)) >numbers
    under xz -k -1 -T2 --block-size=200KiB numbers
    under xz -t -v -v -T2 numbers.xz 2>/dev/null
    mv numbers numbers.before
    under xz -d -T2 numbers.xz
    cmp numbers numbers.before && echo same
}
scenario_redis() {
    local socket=$PWD/redis.sock
    under redis-server --port 0 --unixsocket "$socket" --save '' --appendonly yes --enable-debug-command yes --daemonize no --loglevel warning \
        --dir "$PWD" >server.output 2>&1 &
    local server=$!
    for ((i = 0; i < 300; i++)); do
        [ "$(redis-cli -s "$socket" ping 2>/dev/null)" = PONG ] && break
        sleep 0.1
    done
    redis-benchmark -s "$socket" -q -n $((scale * 500)) -c 20 -t set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100 >/dev/null ||
        echo "the benchmark failed"
    redis-cli -s "$socket" <<'COMMANDS'
flushall
set greeting "hello there"
append greeting ", stranger"
get greeting
rpush list a b c d
lrange list 0 -1
hset h one 1 two 2
hgetall h
zadd z 3 c 1 a 2 b
zrange z 0 -1 withscores
eval "local t = {} for i = 1, 100 do t[i] = i * i end return #t" 0
debug reload
get greeting
bgrewriteaof
dbsize
COMMANDS
    sleep 0.5
    redis-cli -s "$socket" shutdown nosave
    wait "$server"
    grep -v '^[0-9]*:' server.output
}
scenario_gdb() {
    gcc -g -O0 -o program "$inputs/table.c"
    # The program under the debugger runs under Moat as well; heap addresses are kept out of what is printed.
    under gdb -nx -batch -ex 'set debuginfod enabled off' -ex 'set disable-randomization on' -ex 'set print symbol off' -ex 'break table.c:grow' -ex run \
        -ex 'bt' -ex 'info locals' -ex 'print *table' -ex 'delete' -ex 'ptype struct table' -ex 'list hash_of' -ex continue \
        ./program 2>&1 | sed -E 's/0x[0-9a-f]+/ADDRESS/g; s/process [0-9]+/process N/; s/count = [0-9]+/count = N/'
}
scenario_node() { under node "$inputs/work.js" "$scale"; }
scenario_bash() {
    cat >script.sh <<'SCRIPT'
declare -A count
for ((i = 0; i < 3000; i++)); do
    key=k$((i * 31 % 97))
    count[$key]=$((${count[$key]:-0} + 1))
    list+=("$key-$i")
done
printf '%s\n' "${#count[@]}" "${list[*]:5:4}" "${list[-1]//k/K}"
text=$(for word in "${list[@]:0:200}"; do echo "${word^^}"; done | sort | uniq -c | tail -n 2)
echo "$text"
[[ $text =~ K([0-9]+) ]] && echo "${BASH_REMATCH[1]}"
f() { local depth=$1; ((depth == 0)) && return 3; f $((depth - 1)); }
f 50
echo "$?"
(exit 9)
SCRIPT
    under bash script.sh
}
scenario_make() {
    cat >Makefile <<'SCRIPT'
names := $(foreach i,1 2 3 4 5 6 7 8 9,part$(i).txt)
all: whole.txt ; @cat $<
whole.txt: $(names) ; @cat $^ > $@
part%.txt: ; @echo "$* $(subst 1,one,$*)" > $@
.PHONY: all
SCRIPT
    under make -j2
    under make no-such-target 2>&1
}
scenario_tar() {
    mkdir tree
    for ((i = 0; i < 200; i++)); do seq "$i" $((i + 50)) >"tree/file$i"; done
    under tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -czf tree.tar.gz tree
    gzip -dc tree.tar.gz | sha256sum
    under tar -tzf tree.tar.gz
    mkdir out
    under tar -xzf tree.tar.gz -C out
    diff -r tree out/tree && echo same
}
scenario_gzip() {
    seq 1 $((scale * 100000)) >numbers
    under gzip -9nk numbers
    sha256sum numbers.gz
    under gzip -dc numbers.gz | tail -n 2
}
scenario_awk() {
    seq 1 $((scale * 20000)) | under awk '{ k = "k" ($1 * 7919 % 331); n[k]++; s[k] = s[k] "," $1 } END {
        for (k in n) total += n[k]; print total, length(s["k1"]), length(n); print toupper(substr(s["k7"], 1, 30))
        m = split(s["k2"], p, ","); gsub(/1/, "<&>", s["k2"]); print m, length(s["k2"]) }'
}

# ---- both runs, and the comparison -----------------------------------------------------------------------------------

run_mode() {
    mode=$1
    report=$place/report.json
    rm -rf "$place/work"
    mkdir -p "$place/work"
    (cd "$place/work" && "scenario_$name") >"$place/$mode.output" 2>"$place/$mode.errors" </dev/null
}

one() {
    name=$1
    place=$build/tests/programs/$name
    mkdir -p "$place"
    rm -f "$place"/*
    export DEBUGINFOD_URLS= LC_ALL=C.UTF-8 TZ=UTC TMPDIR=$place
    local began=$SECONDS middle verdict
    run_mode plain
    middle=$SECONDS
    run_mode moat
    if [ ! -s "$place/plain.output" ] || grep -q 'status of .*: 12[67]$' "$place/plain.output"; then
        verdict="the program does not run even without Moat: $(tail -n 3 "$place/plain.errors")"
    elif ! cmp -s "$place/plain.output" "$place/moat.output"; then
        verdict="the output differs: $(diff "$place/plain.output" "$place/moat.output" | head -n 8)"
        verdict+=" $(tail -n 5 "$place/moat.errors")"
    else
        verdict=$(/usr/bin/python3 "$here/judge.py" "$report" "$here/leaks.txt") && verdict=
    fi
    rm -rf "$place/work"
    if [ -n "$verdict" ]; then
        echo "FAILED $name: $verdict"
        return 1
    fi
    echo "passed $name ($((middle - began)) s plain, $((SECONDS - middle)) s under Moat)"
}

scale=${MOAT_SCALE:-1}
names=()
wanted=$everyday
for argument in "$@"; do
    case $argument in
    --one)
        one "$2"
        exit
        ;;
    --deep)
        wanted=$deep
        scale=10
        run_seconds=1800
        ;;
    *) names+=("$argument") ;;
    esac
done
[ ${#names[@]} -eq 0 ] && read -r -a names <<<"$wanted"
mkdir -p "$build/tests/programs"
results=$(printf '%s\n' "${names[@]}" | MOAT_SCALE=$scale xargs -P "$(nproc)" -I{} sh -c \
    'timeout --kill-after=5 "$0" "$1" --one "$2" || [ $? -lt 124 ] || echo "FAILED $2: ran longer than $0 s or was killed"' \
    "$run_seconds" "$0" {})
echo "$results"
passed=$(grep -c '^passed ' <<<"$results")
failed=$((${#names[@]} - passed))
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
