"""Runs sqlite3 over a script without and with Moat, compares what it prints and says what Moat cost.

Usage: cost.py BUILD SCRIPT MEASURE (tests/programs/measure, built). Each way runs five times; the fastest time and the largest memory count."""
import os
import subprocess
import sys

ROUNDS = 5
build, script, measure = sys.argv[1:]
command = ["sqlite3", "-batch", ":memory:"]
library = os.path.abspath(os.path.join(build, "libmoat.so"))


def run(arguments):
    """Output, errors, status, seconds and peak KiB of one run."""
    read_end, write_end = os.pipe()
    with open(script, "rb") as source:
        process = subprocess.Popen(["sh", "-c", f'exec "$@" 3>&{write_end}', "sh", measure] + arguments, stdin=source,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[write_end])
    os.close(write_end)
    output, errors = process.communicate()
    with os.fdopen(read_end) as results:
        microseconds, peak = map(int, results.read().split())
    return output, errors, process.returncode, microseconds / 1e6, peak


plain = [run(command) for _ in range(ROUNDS)]
guarded = [run(["env", "LD_PRELOAD=" + library] + command) for _ in range(ROUNDS)]
through = run([os.path.join(build, "moat"), "run", "-o", "summary=1", "--"] + command)

faults = []
if any(r[0] != plain[0][0] for r in plain + guarded + [through]) or not plain[0][0]:
    faults.append("the outputs differ")
if through[2] != plain[0][2]:
    faults.append(f"the exit status under moat run is {through[2]}, without it {plain[0][2]}")
print(plain[0][0].decode().rstrip().splitlines()[-1], f"- the last of {len(plain[0][0].splitlines())} lines of output,",
      "byte for byte the same with Moat" if not faults else "NOT the same with Moat")
sys.stdout.write(through[1].decode())
if any(r[1] for r in guarded):
    faults.append("something was reported: " + guarded[0][1].decode())

seconds = [min(r[3] for r in runs) for runs in (plain, guarded)]
peak = [max(r[4] for r in runs) for runs in (plain, guarded)]
print(f"{'':12}{'without':>12}{'with Moat':>12}{'ratio':>8}")
print(f"{'time':12}{seconds[0] * 1000:>9.0f} ms{seconds[1] * 1000:>9.0f} ms{seconds[1] / seconds[0]:>8.2f}")
print(f"{'peak memory':12}{peak[0] / 1024:>8.1f} MiB{peak[1] / 1024:>8.1f} MiB{peak[1] / peak[0]:>8.2f}")
for fault in faults:
    print("demo:", fault, file=sys.stderr)
sys.exit(1 if faults else 0)
