"""fail_after, fail_every and fail_seed: which allocations fail, how each way of allocating says so, and what is reported.
Usage: fail.py BUILD PROGRAM WORK"""
import concurrent.futures
import json
import os
import subprocess
import sys

BUILD, PROGRAM, WORK = sys.argv[1:4]
CALLS = ["malloc", "realloc", "calloc", "realloc-null", "reallocarray", "posix_memalign", "aligned_alloc", "memalign", "new",
         "new[]", "new-nothrow", "new-aligned", "large"]
SIZES = [100, 5000, 100, 10, 100, 100, 128, 128, 10, 10, 10, 10, 3 << 20]
results = {True: 0, False: 0}


def verdict(holds, what):
    results[bool(holds)] += 1
    if not holds:
        print(f"FAIL {what}")


def run(options, rounds=1):
    """What the program printed, and the findings."""
    report = os.path.join(WORK, f"fail-{'-'.join(options)}-{rounds}.json".replace("=", "_"))
    if os.path.exists(report):
        os.unlink(report)
    command = [os.path.join(BUILD, "moat"), "run", "--format", "json", "--report", report, "-o", "leak_check=0"]
    for option in options:
        command += ["-o", option]
    process = subprocess.run(command + ["--", PROGRAM, str(rounds)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                             timeout=60, env=dict(os.environ, DEBUGINFOD_URLS=""))
    findings = []
    if os.path.exists(report):
        with open(report, encoding="utf-8") as lines:
            findings = [entry for entry in map(json.loads, lines) if "kind" in entry]
    return process.returncode, process.stdout.decode().splitlines(), findings


def failures(lines):
    return [(int(line.split()[0]), *line.split()[1:]) for line in lines if not line.endswith("calls")]


def main():
    status, lines, findings = run([])
    verdict(status == 0 and lines == [f"{len(CALLS)} calls"] and findings == [], f"nothing fails unasked: {lines} {findings}")

    # Each call's own way of saying it. The program's first allocations are its run-time library's: where do its own begin?
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = list(pool.map(lambda number: run([f"fail_after={number}"]), range(1, 40)))
    first = next(index for index, (_, lines, _) in enumerate(runs) if failures(lines))
    for offset, (call, size) in enumerate(zip(CALLS, SIZES)):
        status, lines, findings = runs[first + offset]
        # After a failed malloc the program has nothing to realloc: the calls behind it count one less.
        verdict(status == 0 and failures(lines) == [(offset + 1, call, "ENOMEM")], f"{call}: {status} {lines}")
        one = findings[0] if len(findings) == 1 else {}
        verdict((one.get("kind"), one.get("argument"), one.get("when")) ==
                ("out-of-memory", "injected", "realloc" if call == "realloc" else "call"), f"{call}: {findings}")
        verdict(one.get("values", [None])[0] == size, f"{call}: asked for {one.get('values')}, not {size}")
        frames = [frame.get("function", "") for frame in one.get("stacks", {}).get("found", [])]
        verdict(any("round_of_calls" in name for name in frames), f"{call}: called from {frames}")
    status, lines, findings = runs[first + len(CALLS)]
    verdict(not failures(lines) and findings == [], f"a number that is never reached: {lines}")

    # Every so many; and one in so many at random, the same for the same seed.
    status, lines, _ = run(["fail_every=10"], 100)
    # An exception that is thrown is allocated as well.
    numbers, thrown = [], 0
    for number, call, _ in failures(lines):
        numbers.append(number + thrown)
        thrown += call in ("new", "new[]", "new-aligned")
    verdict(len(numbers) > 100 and all(b - a == 10 for a, b in zip(numbers, numbers[1:])), f"every tenth: {numbers[:20]}")
    seeded = [failures(run([f"fail_every=10", f"fail_seed={seed}"], 100)[1]) for seed in (7, 7, 8)]
    verdict(seeded[0] == seeded[1], "the same seed, the same failures")
    verdict(seeded[0] != seeded[2], "another seed, others")
    for chosen in seeded:
        gaps = {b[0] - a[0] for a, b in zip(chosen, chosen[1:])}
        verdict(80 < len(chosen) < 190 and len(gaps) > 5, f"one in ten at random: {len(chosen)} of 1300, gaps {sorted(gaps)[:9]}")
    both = failures(run(["fail_every=10", f"fail_after={first + 2}"], 1)[1])
    verdict((1, "malloc", "ENOMEM") in both or (2, "realloc", "ENOMEM") in both, f"both at once: {both}")
    print(f"{results[True]} passed, {results[False]} failed")
    return 1 if results[False] or not results[True] else 0


sys.exit(main())
