#!/usr/bin/python3
"""Compares Moat's bare heap with the system's malloc, jemalloc and mimalloc in one run, and prints how much a small heap holds.

Allocators take turns round after round, so that what else happens on the machine happens to all of them; a figure is the
median of its rounds. Usage: bench.py DIRECTORY [ROUNDS], where DIRECTORY holds the programs that `make bench` builds."""
import os
import statistics
import subprocess
import sys

LIBRARIES = "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"
PRELOADED = {"jemalloc": ("libjemalloc.so.2", "libjemalloc2"), "mimalloc": ("libmimalloc.so.2.0", "libmimalloc2.0")}
LEVELS = ["heap0", "heap1", "heap2"]
NAMES = {"heap0": "Moat, level 0", "heap1": "Moat, level 1", "heap2": "Moat, level 2", "malloc": "glibc"}
# Smallest and largest size, live blocks, pairs of free and malloc that are timed.
MIXES = [(16, 512, 1000, 2000000), (16, 512, 100000, 1000000), (16, 16384, 1000, 600000), (16, 16384, 100000, 400000)]
SEED = 77


def find_library(name):
    return next((os.path.join(d, name) for d in LIBRARIES if os.path.exists(os.path.join(d, name))), None)


def contestants(directory):
    """Name -> (program, library to preload). Says what is missing."""
    found = {level: (os.path.join(directory, "mix-" + level), None) for level in LEVELS}
    found["malloc"] = (os.path.join(directory, "mix-malloc"), None)
    for name, (library, package) in PRELOADED.items():
        path = find_library(library)
        if path is None:
            print(f"{name} is left out: no {library} here (Debian's package {package})")
            continue
        found[name] = (os.path.join(directory, "mix-malloc"), path)
    return found


def run(program, library, *arguments):
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    if library is not None:
        environment["LD_PRELOAD"] = library
    done = subprocess.run([program, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return done.stdout


def check_preloading(allocators):
    for name, (program, library) in allocators.items():
        if library is None or os.path.realpath(run(program, library, "name").strip()) == os.path.realpath(library):
            continue
        sys.exit(f"{name}: malloc is not the preloaded library's")


def table(title, columns, rows):
    print(f"\n{title}\n")
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name, cells in rows:
        print(f"| {name} | " + " | ".join(cells) + " |")


def means(allocators, rounds):
    times = {(name, mix): [] for name in allocators for mix in MIXES}
    for _ in range(rounds):
        for mix in MIXES:
            for name, (program, library) in allocators.items():
                times[name, mix].append(float(run(program, library, "mix", *mix, SEED)))
    median = {key: statistics.median(values) for key, values in times.items()}
    columns = [f"{mix[0]} to {mix[1]} bytes, {mix[2]:,} live" for mix in MIXES]
    rows = [(NAMES.get(name, name), [f"{median[name, mix]:.0f} ({median[name, mix] / median['malloc', mix]:.2f})"
                                     for mix in MIXES]) for name in allocators]
    table(f"Mean processor time of one free and one malloc in nanoseconds, medians of {rounds} rounds (against glibc)",
          columns, rows)


def worst(allocators, rounds):
    """The slowest call: each call of the sequence counts with its fastest round, which leaves out interrupts but nothing
    that the allocator does every time."""
    best = {}
    for _ in range(rounds):
        for name, (program, library) in allocators.items():
            calls = [int(line) for line in run(program, library, "worst", SEED).split()]
            best[name] = calls if name not in best else list(map(min, best[name], calls))
    rows = []
    for name, calls in best.items():
        ordered = sorted(calls)
        rows.append((NAMES.get(name, name), [f"{statistics.mean(calls):.0f}", f"{ordered[int(len(ordered) * 0.999)]:,}",
                                             f"{ordered[-1]:,}"]))
    table(f"Single calls of a hostile sequence in nanoseconds, the clock's own 20 or so included, fastest of {rounds} rounds",
          ["mean", "99.9th percentile", "slowest"], rows)


def space(directory):
    rows = []
    for level in LEVELS:
        for bits in ("32", "64"):
            program = os.path.join(directory, f"space{bits}-{level}")
            if not os.path.exists(program):
                print(f"{os.path.basename(program)} is left out: it could not be built")
                continue
            rows.append((f"{NAMES[level]}, {bits}-bit", [f"{int(cell):,}" for cell in run(program, None).split()]))
    table("Requested bytes that a heap of 64 KiB holds: at the first failure, after 20 rounds; means over 1,000 seeds; control block",
          ["first", "after 20", "mean first", "mean after 20", "control"], rows)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    directory = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) == 3 else 7
    allocators = contestants(directory)
    check_preloading(allocators)
    space(directory)
    means(allocators, rounds)
    worst(allocators, rounds)


main()
