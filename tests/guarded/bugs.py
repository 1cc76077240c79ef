"""Each bug in each guarded allocator: what is found, where, whose block it is and whom it was given to. Usage: bugs.py BUILD WORK

The program is run under `moat run` with JSON reports, once with Moat linked in and once with the shared library."""
import concurrent.futures
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCES = ["bugs.c", "allocators.c", "first_fit.c", "first_fit_guard.c"]
BLOCK = 40
NAMES = {"list": "message heap", "heap": "session heap", "pool": "tickets", "arena": "scratch arena"}
OTHER = {"list": "tickets", "heap": "tickets", "pool": "receipts", "arena": "tickets"}


def damage(kind, when, first, last=None):
    return dict(kind=kind, when=when, size=BLOCK, first=first, last=first if last is None else last)


def mixing(when="free", argument="other-owner", **names):
    return dict(kind="alloc-dealloc-mismatch", when=when, argument=argument, **names)


def expected(key, bug):
    """The findings in order, each as fields; None: this allocator cannot have the bug."""
    mine, arena = NAMES[key], key == "arena"
    table = {
        "overflow": [damage("heap-buffer-overflow", "free", BLOCK)],
        "overflow_nul": [damage("heap-buffer-overflow", "free", BLOCK + 2)],
        "overflow_exit": [damage("heap-buffer-overflow", "exit", BLOCK + 1)],
        "underflow": [damage("heap-buffer-underflow", "free", -3)],
        "late_check": [damage("heap-use-after-free", "check", 7)],
        "late_exit": [damage("heap-use-after-free", "exit", BLOCK - 1)],
        "late_reuse": [damage("heap-use-after-free", "quarantine", 8, 11)],
        "twice": None if arena else [dict(kind="double-free", when="free", size=BLOCK)],
        "singly": [mixing(argument="not-singly", owner=mine, asked=mine)] if arena else None,
        "interior": None if arena else [dict(kind="invalid-free", when="free", place="block", first=16, size=BLOCK)],
        "to_the_heap": [mixing(owner=mine, asked="the heap", size=BLOCK)],
        "to_realloc": [mixing(when="realloc", owner=mine, asked="the heap", size=BLOCK)],
        "to_another": [mixing(owner=mine, asked=OTHER[key], size=BLOCK)],
        "from_the_heap": [mixing(owner="the heap", asked=mine, size=24)],
        "from_the_stack": [dict(kind="invalid-free", when="free", place="stack")],
        # An arena's blocks go with the arena: none is leaked by itself.
        "leak": [] if arena else [dict(kind="memory-leak", when="exit", blocks=1, bytes=BLOCK, **{"class": "definite"})],
        "reaches": [],
        "clean": [],
    }
    findings = table[bug]
    for finding in findings or []:
        if finding["kind"] not in ("alloc-dealloc-mismatch", "invalid-free"):
            finding["owner"] = mine
    return findings


BUGS = ["overflow", "overflow_nul", "overflow_exit", "underflow", "late_check", "late_exit", "late_reuse", "twice", "singly",
        "interior", "to_the_heap", "to_realloc", "to_another", "from_the_heap", "from_the_stack", "leak", "reaches", "clean"]


def compile_program(build, work, name, flags):
    program = os.path.join(work, "bugs-" + name)
    subprocess.run(os.environ.get("CC", "gcc").split() +
                   ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-g", "-fno-builtin", "-Iinclude", "-o", program] +
                   [os.path.join(HERE, source) for source in SOURCES] + ["-L" + build] + flags, check=True)
    return program


def functions(finding, stack):
    return [frame.get("function") for frame in finding.get("stacks", {}).get(stack, [])]


def faults_of(build, program, key, bug):
    wanted = expected(key, bug)
    report = f"{program}-{key}-{bug}.json"
    if os.path.exists(report):
        os.unlink(report)
    run = subprocess.run([os.path.join(build, "moat"), "run", "-o", "on_error=continue", "--format", "json", "--report", report,
                          "--", program, key, bug], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False,
                         env=dict(os.environ, LD_LIBRARY_PATH=build, DEBUGINFOD_URLS=""))
    status = 0 if not wanted else 23 if wanted[0]["kind"] == "memory-leak" else 66
    # Blocks that the bug leaves behind are leaks too; only where a leak is the bug do they count.
    findings = []
    if os.path.exists(report):
        with open(report, encoding="utf-8") as lines:
            findings = [entry for entry in map(json.loads, lines) if "kind" in entry]
    leaks = [finding for finding in findings if finding["kind"] == "memory-leak"]
    if bug not in ("leak", "clean", "reaches"):
        findings = [finding for finding in findings if finding["kind"] != "memory-leak"]
    if run.returncode != status:
        yield f"status {run.returncode}, not {status}: {run.stdout.decode(errors='replace')[-300:]}"
    if [finding["kind"] for finding in findings] != [finding["kind"] for finding in wanted]:
        yield f"found {findings}, not {wanted}"
        return
    if key == "arena" and leaks:
        yield f"an arena's blocks are leaked singly: {leaks}"
    for finding, fields in zip(findings, wanted):
        for name, value in fields.items():
            got = finding.get("block", {}).get("size") if name == "size" else finding.get(name)
            if got != value:
                yield f"{name} is {got!r}, not {value!r}"
        heap_block = bug == "from_the_heap"
        if "size" in fields and not heap_block and "make_block" not in functions(finding, "allocated")[:1]:
            yield f"allocated in {functions(finding, 'allocated')}"
        if fields["kind"] in ("heap-use-after-free", "double-free") and "drop_block" not in functions(finding, "freed")[:1]:
            yield f"freed in {functions(finding, 'freed')}"
        if fields.get("when") == "free" and "kind" in fields and not functions(finding, "found"):
            yield "no stack says where"


def main():
    build, work = os.path.abspath(sys.argv[1]), sys.argv[2]
    modes = {"linked": ["-Wl,--undefined=malloc", "-l:libmoat.a", "-pthread"], "shared": ["-lmoat", "-l:libmoat.a"]}
    programs = {name: compile_program(build, work, name, flags) for name, flags in modes.items()}
    todo = [(mode, key, bug) for mode in modes for key in NAMES for bug in BUGS if expected(key, bug) is not None]
    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda one: list(faults_of(build, programs[one[0]], one[1], one[2])), todo)
        for (mode, key, bug), faults in zip(todo, results):
            passed, failed = passed + (not faults), failed + bool(faults)
            for fault in faults:
                print(f"FAIL {key} {bug}, {mode}: {fault}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
