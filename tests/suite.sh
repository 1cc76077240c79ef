# What suites in bash share: counting verdicts. To be sourced, by a run.sh that has set -u, from the top of the tree.
build=$(realpath "${MOAT_BUILD:-build}")
work=$build/tests/$(basename "$(dirname "$0")")
mkdir -p "$work"
passed=0
failed=0
unset MOAT_OPTIONS LD_PRELOAD

pass() { passed=$((passed + 1)); }
fail() { # NAME [OUTPUT]
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
# Adds the counts of a program whose last line is "N passed, N failed".
add() {
    local output last
    output=$("$@" 2>&1)
    last=$(tail -n 1 <<<"$output")
    if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        grep -v ' passed, ' <<<"$output"
    else
        fail "$* has no count" "$output"
    fi
}
# Counts the lines of a program that says "pass" or "FAIL" for each expectation, and must end with 0.
verdicts() {
    local status=0
    timeout 120 "$@" >"$work/verdicts" 2>"$work/errors" || status=$?
    passed=$((passed + $(grep -c '^pass ' "$work/verdicts")))
    while read -r line; do fail "$1: ${line#FAIL }"; done < <(grep '^FAIL ' "$work/verdicts")
    [ "$status" -eq 0 ] && grep -q '^pass ' "$work/verdicts" || fail "$1 ended with status $status" "$(tail "$work/errors")"
}
# The suite's last command.
finish() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
