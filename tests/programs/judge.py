"""Reads what Moat reported about one program and says what of it should not be there.

Usage: judge.py REPORT.json LEAKS.txt. Prints the faults and exits with 1 if there are any. Allowed are leaks whose allocation stack
meets a function that LEAKS.txt lists for the program, with the reason why it is a true leak of that program, and a leak check that was
left out because other threads were alive."""
import json
import os.path
import sys

report, known = sys.argv[1:]
faults = []
leaks_known = {}
with open(known, encoding="utf-8") as lines:
    for line in lines:
        fields = line.split(None, 2)
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) < 3:
            faults.append(f"leaks.txt gives no reason: {line.strip()}")
        else:
            leaks_known.setdefault(fields[0], set()).add(fields[1])

allocations = 0
try:
    with open(report, encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            if "kind" in entry:
                stacks = entry.get("stacks", {})
                frames = stacks.get("allocated" if entry["kind"] == "memory-leak" else "found", [])
                functions = [frame.get("function") or f"{frame.get('module', '?').rsplit('/', 1)[-1]}+{frame.get('offset')}"
                             for frame in frames]
                program = os.path.basename(entry.get("program", "?"))
                known_here = leaks_known.get(program, set())
                if entry["kind"] != "memory-leak" or not known_here.intersection([name.split("(")[0] for name in functions] + ["*"]):
                    faults.append(f"{entry['kind']} in {program}: {entry.get('blocks', '')} blocks, "
                                  f"{' < '.join(functions[:8])}")
            elif entry.get("event") == "summary":
                allocations += entry.get("allocations", 0)
            elif entry.get("event") not in ("note",):
                faults.append(f"{line.strip()[:300]}")
except (OSError, ValueError) as error:
    faults.append(f"the report cannot be read: {error}")
if allocations == 0:
    faults.append("no allocation was counted: nothing ran under Moat")
print("; ".join(faults))
sys.exit(1 if faults else 0)
