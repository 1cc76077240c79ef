"""Builds every program in tests/detect/cases, runs it under `moat run` and compares what is reported with what the program says
of itself; with Moat preloaded, with Moat linked in, and fully static. Then runs the sweeps. Usage: detect.py BUILD [--deep] [CASE...]

A case's first lines say what must come out:
    // find: kind=K when=W size=N first=N ...   a finding with these fields (size means block.size); one line for each finding
    // none:                                    no finding at all
    // status: N                                the exit status of moat run, 128 + signal for a signal
    // options: KEY=VALUE ...                   passed on with -o
    // output: TEXT                             what the program prints
    // libs: FLAGS                              to link with
    // child: yes                               the finding's pid is not the program's, which it prints
    // module: FILE                             a library from modules/ to build; the program gets its path; not for static programs
    // event: TEXT                              something else that the report must say
The places are markers in the code: a line with @allocated, @freed or @found and a function's name says that the innermost frame
of that stack in this file is that function, at that very line; with a number behind, as @found2, the next frame out."""
import concurrent.futures
import glob
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
RUN_SECONDS = 60
HEADER = re.compile(r"// (find|none|status|options|output|libs|child|module|event):\s*(.*)")
MARKER = re.compile(r"/\* @(allocated|freed|found)(\d?) (\w+) \*/")


class Case:
    def __init__(self, path):
        self.path = path
        self.file = os.path.basename(path)
        self.name = self.file.replace(".cpp", "-cpp").replace(".c", "")
        self.find, self.none, self.status, self.options, self.output, self.libs = [], False, None, [], None, []
        self.child, self.module, self.event = False, None, None
        self.marks = {}
        self.read(path)
        if self.module:
            self.read(self.module)
        self.files = {self.file} | ({os.path.basename(self.module)} if self.module else set())
        if not self.find and not self.none:
            raise SystemExit(f"{path} does not say what to expect")

    def read(self, path):
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                header = HEADER.match(line)
                if header:
                    self.take(*header.groups())
                for stack, depth, function in MARKER.findall(line):
                    self.marks[stack, int(depth or 1) - 1] = (function, number)

    def take(self, key, text):
        if key == "find":
            self.find.append(dict(word.split("=", 1) for word in text.split()))
        elif key == "none":
            self.none = True
        elif key == "status":
            self.status = int(text)
        elif key == "options":
            self.options = text.split()
        elif key == "libs":
            self.libs = text.split()
        elif key == "child":
            self.child = True
        elif key == "module":
            self.module = os.path.join(HERE, "modules", text)
        elif key == "event":
            self.event = text
        else:
            self.output = text


def field_of(finding, name):
    """A field by its dotted name; size is the block's."""
    value = finding
    for part in ("block.size" if name == "size" else name).split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def shell_status(status):
    return 128 - status if status < 0 else status


def modes(build):
    """How Moat gets into the program: a name and what to link with."""
    archive = ["-L" + build, "-Wl,--undefined=malloc", "-Wl,--eh-frame-hdr", "-l:libmoat.a"]
    return {"preloaded": [], "linked": archive, "static": ["-static"] + archive}


def compile_case(case, mode, build):
    """The command to run: the program, and its module's path if it has one."""
    binary = os.path.join(build, "tests", "detect", f"{case.name}-{mode}")
    os.makedirs(os.path.dirname(binary), exist_ok=True)
    c_compiler = os.environ.get("CC", "gcc").split()
    compiler = os.environ.get("CXX", "g++").split() + ["-std=c++17"] if case.path.endswith(".cpp") else c_compiler
    # The bugs are deliberate: no warnings, and no optimiser that takes a bug away because it may.
    flags = ["-w", "-g", "-O0", "-fno-builtin"]
    subprocess.run(compiler + [*flags, "-o", binary, case.path, *case.libs, *modes(build)[mode]], check=True,
                   stderr=subprocess.DEVNULL)
    if not case.module:
        return [binary]
    subprocess.run(c_compiler + [*flags, "-shared", "-fPIC", "-o", binary + ".so", case.module], check=True)
    return [binary, os.path.abspath(binary + ".so")]


def findings_in(path):
    """Findings and other events of a JSON report; a line that is no JSON is an error."""
    findings, events = [], []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                (findings if "kind" in entry else events).append(entry)
    return findings, events


def faults_of_stack(case, finding, stack):
    frames = [frame for frame in finding.get("stacks", {}).get(stack, [])
              if os.path.basename(frame.get("file") or "") in case.files]
    for (marked, depth), (function, line) in sorted(case.marks.items()):
        if marked != stack:
            continue
        if depth >= len(frames):
            yield f"the {stack} stack has no frame {depth} in {case.file}: {finding.get('stacks', {}).get(stack)}"
        elif (frames[depth].get("function", "").split("(")[0], frames[depth].get("line")) != (function, line):
            yield (f"the {stack} stack's frame {depth} is {frames[depth].get('function')}:{frames[depth].get('line')}, "
                   f"not {function}:{line}")


def faults_of(case, mode, build):
    program = compile_case(case, mode, build)
    report = program[0] + ".json"
    if os.path.exists(report):
        os.unlink(report)
    command = [os.path.join(build, "moat"), "run", "--format", "json", "--report", report]
    for option in case.options:
        command += ["-o", option]
    process = subprocess.Popen(command + ["--", *program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, errors = process.communicate(timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        yield f"still ran after {RUN_SECONDS} s"
        return
    status = shell_status(process.returncode)
    try:
        findings, events = findings_in(report)
    except ValueError as error:
        yield f"the report is not JSON: {error}"
        return
    if case.status is not None and status != case.status:
        yield f"exit status {status}, not {case.status}; stderr: {errors.decode(errors='replace')[-400:]}"
    if case.output is not None and output.decode().strip() != case.output:
        yield f"printed {output!r}"
    if case.event is not None and case.event not in json.dumps(events) + errors.decode(errors="replace"):
        yield f"nothing says {case.event}: {events}"
    if case.child and output.decode().split()[0] == str(findings[0].get("pid") if findings else ""):
        yield "the finding is said to be the program's own, not its child's"
    if len(findings) != len(case.find):
        yield f"{len(findings)} findings, not {len(case.find)}: {[f['kind'] for f in findings]}"
    for expected, finding in zip(case.find, findings):
        for name, value in expected.items():
            if str(field_of(finding, name)) != value:
                yield f"{name} is {field_of(finding, name)}, not {value}"
        if finding.get("schema") != 1 or not re.fullmatch("[0-9a-f]{8}", str(finding.get("id"))):
            yield f"schema {finding.get('schema')}, id {finding.get('id')}"
        for stack in ("allocated", "freed", "found"):
            yield from faults_of_stack(case, finding, stack)


def check(case, mode, build):
    try:
        return list(faults_of(case, mode, build))
    except (subprocess.CalledProcessError, OSError) as error:
        return [str(error)]


def sweeps(build, deep):
    """Name and faults of each in-process sweep."""
    for source in sorted(glob.glob(os.path.join(HERE, "sweep*.c"))):
        name = os.path.basename(source)[:-2]
        binary = os.path.join(build, "tests", "detect", name)
        subprocess.run(os.environ.get("CC", "gcc").split() +
                       ["-O1", "-g", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-Iinclude", "-rdynamic", "-pthread", "-o",
                        binary, source], check=True)
        environment = dict(os.environ, LD_PRELOAD=os.path.abspath(os.path.join(build, "libmoat.so")),
                           MOAT_OPTIONS="on_error=continue:leak_check=0:report=/dev/null:"
                                        "quarantine=65536:quarantine_far=0:exitcode=1:shards=1")
        process = subprocess.run([binary] + (["--deep"] if deep else []), env=environment, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, timeout=3600 if deep else 240, check=False)
        output = process.stdout.decode(errors="replace")
        sys.stdout.write(output)
        counted = re.findall(r"^(\d+) passed, (\d+) failed$", output, re.M)
        if not counted:
            yield 0, 1
            print(f"FAILED {name}: ended with {process.returncode} and no count")
        else:
            passed, failed = map(int, counted[-1])
            yield passed, failed + (process.returncode != 0 and failed == 0)


def main():
    arguments = sys.argv[2:]
    build = sys.argv[1]
    deep = "--deep" in arguments
    wanted = [argument for argument in arguments if not argument.startswith("--")]
    os.environ["DEBUGINFOD_URLS"] = ""
    cases = [Case(path) for path in sorted(glob.glob(os.path.join(HERE, "cases", "*.c*")))]
    cases = [case for case in cases if not wanted or case.name in wanted]
    passed = failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        todo = [(case, mode) for case in cases for mode in modes(build) if not (case.module and mode == "static")]
        for (case, mode), faults in zip(todo, pool.map(lambda pair: check(*pair, build), todo)):
            passed, failed = passed + (not faults), failed + bool(faults)
            for fault in faults:
                print(f"FAILED {case.name} {mode}: {fault}")
    if not wanted:
        for good, bad in sweeps(build, deep):
            passed, failed = passed + good, failed + bad
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
