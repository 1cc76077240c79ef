#!/bin/bash
# Runs unit test binaries and suites, and ends with one line: "N passed, N failed".
# Usage: run-all.sh [--deep] RUNNER...     a RUNNER is a binary, or a suite's run.sh
# A runner's numbers are read from its own last words. One that dies, runs too long, says nothing or says that all passed but
# exits otherwise counts as a failure of its own; so do no runners, and no tests.
set -u
# What a make above says about itself is not for the programs under test, some of which are makes.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

limit_seconds=${MOAT_TEST_LIMIT:-300}
arguments=()
if [ "${1-}" = --deep ]; then
    arguments=(--deep)
    limit_seconds=${MOAT_TEST_LIMIT:-7200}
    shift
fi
logs=${MOAT_BUILD:-build}/tests/logs
mkdir -p "$logs"
total_passed=0
total_failed=0
export LC_ALL=C.UTF-8

# Prints "PASSED FAILED" from a log: our own runners' last line, or Criterion's.
numbers() {
    awk '
        /^[0-9]+ passed, [0-9]+ failed$/ { passed = $1; failed = $3; found = 1 }
        /Synthesis: Tested:/ {
            gsub(/\033\[[0-9;]*m/, "")
            split($0, field, "|")
            sub(/.*Passing: */, "", field[2]); sub(/.*Failing: */, "", field[3]); sub(/.*Crashing: */, "", field[4])
            passed = field[2] + 0; failed = field[3] + field[4]; found = 1
        }
        END { if (found) print passed, failed }' "$1"
}

for runner in "$@"; do
    case $runner in
    */run.sh) name=$(basename "$(dirname "$runner")") ;;
    *) name=$(basename "$runner") ;;
    esac
    log=$logs/$name.log
    began=$SECONDS
    case $runner in
    */run.sh) timeout --kill-after=10 "$limit_seconds" "$runner" "${arguments[@]}" >"$log" 2>&1 </dev/null ;;
    *) timeout --kill-after=10 "$limit_seconds" "$runner" >"$log" 2>&1 </dev/null ;;
    esac
    status=$?
    read -r passed failed <<<"$(numbers "$log")"
    passed=${passed:-0}
    if [ -z "${failed:-}" ]; then
        failed=1
        why="ended with status $status and no count"
    elif [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
        failed=1
        why="ended with status $status although no test failed"
    elif [ "$passed" -eq 0 ] && [ "$failed" -eq 0 ]; then
        failed=1
        why="ran no test"
    else
        why=
    fi
    [ "$status" -eq 124 ] && why="ran longer than $limit_seconds s"
    total_passed=$((total_passed + passed))
    total_failed=$((total_failed + failed))
    printf '%-20s %5d passed, %d failed  (%d s)%s\n' "$name" "$passed" "$failed" $((SECONDS - began)) "${why:+  $why}"
    if [ "$failed" -ne 0 ]; then
        sed 's/^/    | /' "$log" | tail -n 60
        echo "    whole log: $log"
    fi
done
if [ $((total_passed + total_failed)) -eq 0 ]; then
    echo "no test ran"
    echo "0 passed, 1 failed"
    exit 1
fi
echo "$total_passed passed, $total_failed failed"
[ "$total_failed" -eq 0 ]
