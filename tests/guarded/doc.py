"""The code shown in docs/guarding.md is the code that the tests compile: each block that names a file is a run of its lines.
And moat(3) names every function that the public headers declare, and no other."""
import glob
import re
import sys

PAGE = "docs/guarding.md"


MAN = "docs/man/moat.3"


def offered():
    """The functions that the headers declare."""
    names = set()
    for path in glob.glob("include/*.h") + glob.glob("include/moat/*.h"):
        with open(path, encoding="utf-8") as header:
            text = re.sub(r"/\*.*?\*/", "", header.read(), flags=re.S)
        text = re.sub(r"__attribute__\(\(\w+\)\) ", "", text)
        declared = re.findall(r"^(?!#|static const|extern)[a-zA-Z_][^;{}()=#]*?\b\*?(moat_[a-z_]+)\(", text, re.M)
        names.update(declared)
    return names


def man_verdicts():
    with open(MAN, encoding="utf-8") as page:
        named = set(re.findall(r"\bmoat_[a-z_]+(?=\s*\()|\bmoat_[a-z_]+(?=\" \(\))", page.read()))
    for name in sorted(offered() - named):
        print(f"FAIL {MAN} does not name {name}")
    for name in sorted(named - offered()):
        print(f"FAIL {MAN} names {name}, which no header declares")
    return offered() == named and len(named) > 60


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
    good = man_verdicts()
    passed, failed = passed + good, failed + (not good)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
