"""The code shown in docs/guarding.md is the code that the tests compile: each block that names a file is a run of its lines."""
import re
import sys

PAGE = "docs/guarding.md"


def main():
    passed = failed = 0
    with open(PAGE, encoding="utf-8") as page:
        blocks = re.findall(r"^<!-- (tests/guarded/\S+) -->\n```c\n(.*?)^```$", page.read(), re.M | re.S)
    for path, code in blocks:
        with open(path, encoding="utf-8") as source:
            same = code in source.read()
        passed, failed = passed + same, failed + (not same)
        if not same:
            print(f"FAIL {PAGE}: its code from {path} is not in that file")
    shown = {path for path, _ in blocks}
    wanted = {"tests/guarded/first_fit.h", "tests/guarded/first_fit.c", "tests/guarded/first_fit_guard.c"}
    if not wanted <= shown:
        failed += 1
        print(f"FAIL {PAGE} does not show {sorted(wanted - shown)}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
