#!/usr/bin/python3
"""Fails when an include goes up the layers that docs/design.md draws.

Each directory may include what its row allows and nothing else; no file includes a .c file. Run from the top of the tree."""
import os
import re
import sys

# The C library's headers that need no operating system.
FREESTANDING = {"float.h", "iso646.h", "limits.h", "stdalign.h", "stdarg.h", "stdatomic.h", "stdbool.h", "stddef.h",
                "stdint.h", "stdnoreturn.h"}
MEMORY = FREESTANDING | {"string.h"}
ANY = None

# Longest matching prefix counts: (directory or file prefix, system headers, project prefixes).
LAYERS = [
    ("include/", FREESTANDING, ["include/"]),
    ("src/", MEMORY, ["include/", "src/"]),
    ("src/source/", ANY, ["include/", "src/"]),
    ("guard/engine/", MEMORY, ["include/", "guard/engine/"]),
    ("guard/report/", MEMORY, ["include/", "guard/report/"]),
    # The spool's writing side is system calls by nature.
    ("guard/report/spool_file", ANY, ["include/", "guard/report/"]),
    ("guard/option/", MEMORY, ["include/", "guard/option/"]),
    ("guard/port/", ANY, ["include/", "guard/port/", "guard/report/report.h"]),
    ("guard/entry/", ANY, ["include/", "guard/", "src/"]),
    ("guard/cli/", ANY, ["include/", "guard/cli/", "guard/report/", "guard/option/"]),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)')


def layer_of(path):
    rows = [row for row in LAYERS if path.startswith(row[0])]
    return max(rows, key=lambda row: len(row[0])) if rows else None


def resolve(path, name):
    """The project file a quoted include means, by the compiler's search order."""
    for base in (os.path.dirname(path), "include", "."):
        candidate = os.path.normpath(os.path.join(base, name))
        if os.path.exists(candidate):
            return candidate
    return None


def faults_of(path):
    layer = layer_of(path)
    if layer is None:
        yield 0, "lies in no layer that this script knows"
        return
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            quoted, system = match.groups()
            if system is not None and not system.startswith("moat"):
                if layer[1] is not None and system not in layer[1]:
                    yield number, f"<{system}> is not for {layer[0]}"
                continue
            name = quoted or system
            target = resolve(path, name)
            if name.endswith(".c"):
                yield number, f"{name} is a source file, not a header"
            elif target is None:
                yield number, f"{name} does not exist"
            elif not any(target.startswith(prefix) for prefix in layer[2]):
                yield number, f"{target} is above or beside {layer[0]}"


def main():
    files = [os.path.join(directory, name)
             for top in ("include", "src", "guard")
             for directory, _, names in os.walk(top)
             for name in names if name.endswith((".c", ".h", ".def", ".cpp"))]
    bad = 0
    for path in sorted(files):
        for number, what in faults_of(path):
            print(f"{path}:{number}: {what}")
            bad += 1
    print(f"{len(files)} files looked at, {bad} includes in the wrong direction")
    return 1 if bad or not files else 0


sys.exit(main())
