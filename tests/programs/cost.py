"""What Moat costs: runs programs plainly and with Moat preloaded, and prints time and peak memory and their ratios.

Usage: cost.py BUILD [--rounds N] [--memcheck] (make bench). The fastest of N rounds counts for time, the largest for memory; the rounds of the ways
alternate, so that a busy machine slows all of them. --memcheck adds Valgrind's Memcheck, where it is installed, for
comparison."""
import argparse
import math
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
INPUTS = os.path.join(HERE, "inputs")
LEDGER = os.path.join(HERE, "..", "demo", "ledger.sql")


def programs(work):
    """Name, command and standard input of each; what they need is made in `work`."""
    rows = os.path.join(work, "rows.json")
    with open(rows, "w", encoding="ascii") as out:
        out.write("[" + ",".join(f'{{"n":{i},"name":"row{i}","town":"t{i % 7}","tags":["a{i % 5}"],"deep":{{"er":[{i},null]}}}}'
                                 for i in range(5000)) + "]")
    compiler = subprocess.run(["gcc", "-print-prog-name=cc1plus"], check=True, stdout=subprocess.PIPE).stdout.decode().strip()
    return [
        ("sqlite3", ["sqlite3", "-batch", ":memory:"], LEDGER),
        ("python3", ["/usr/bin/python3", "-S", os.path.join(INPUTS, "work.py"), "20"], None),
        ("perl", ["perl", os.path.join(INPUTS, "work.pl"), "20"], None),
        ("lua5.4", ["lua5.4", os.path.join(INPUTS, "work.lua"), "5"], None),
        ("jq", ["jq", "-f", os.path.join(INPUTS, "work.jq"), rows], None),
        ("cc1plus", [compiler, "-quiet", "-imultiarch", "x86_64-linux-gnu", os.path.join(INPUTS, "shapes.cpp"), "-o",
                     os.path.join(work, "shapes.s")], None),
    ]


def run(measure, command, source):
    """Seconds and peak KiB of one run."""
    read_end, write_end = os.pipe()
    with open(source or os.devnull, "rb") as standard_input:
        process = subprocess.Popen(["sh", "-c", f'exec "$@" 3>&{write_end}', "sh", measure] + command, stdin=standard_input,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[write_end],
                                   env={**os.environ, "PYTHONMALLOC": "malloc"})
    os.close(write_end)
    with os.fdopen(read_end) as results:
        microseconds, peak = map(int, results.read().split())
    if process.wait() != 0:
        sys.exit(f"cost.py: {command} ended with {process.returncode}")
    return microseconds / 1e6, peak


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memcheck", action="store_true")
    arguments = parser.parse_args()
    library = os.path.abspath(os.path.join(arguments.build, "libmoat.so"))
    ways = [("plain", []), ("Moat", ["env", "LD_PRELOAD=" + library])]
    if arguments.memcheck:
        ways.append(("Memcheck", ["valgrind", "-q", "--leak-check=full"]))
    print(f"{'':10}{'plain':>18}" + "".join(f"{name + ', times that':>26}" for name, _ in ways[1:]))
    ratios = [[] for _ in ways]
    with tempfile.TemporaryDirectory() as work:
        measure = os.path.join(work, "measure")
        subprocess.run(["gcc", "-O1", "-o", measure, os.path.join(HERE, "measure.c")], check=True)
        for name, command, source in programs(work):
            best = [[math.inf, 0] for _ in ways]
            for _ in range(arguments.rounds):
                for index, (_, prefix) in enumerate(ways):
                    seconds, peak = run(measure, prefix + command, source)
                    best[index] = [min(best[index][0], seconds), max(best[index][1], peak)]
            line = f"{name:10}{best[0][0]:7.2f} s{best[0][1] / 1024:5.0f} MiB"
            for index in range(1, len(ways)):
                ratio = best[index][0] / best[0][0]
                ratios[index].append(ratio)
                line += f"{ratio:9.2f} time{best[index][1] / best[0][1]:6.2f} memory"
            print(line, flush=True)
    for index in range(1, len(ways)):
        print(f"{ways[index][0]}: geometric mean of the times {math.exp(sum(map(math.log, ratios[index])) / len(ratios[index])):.2f}")


main()
