"""Adds up what pytest wrote of its runs, and ends as they did: total.py FILE.xml ... -- FAILED CHECK ..."""

import sys
from xml.etree import ElementTree


def main(words: list[str]) -> int:
    cut = words.index("--")
    files, checks = words[:cut], words[cut + 1 :]
    suites = [suite for file in files for suite in ElementTree.parse(file).getroot().iter("testsuite")]
    kinds = ("tests", "skipped", "failures", "errors")
    count = {kind: sum(int(suite.get(kind, 0)) for suite in suites) for kind in kinds}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - count["skipped"] - failed
    for check in checks:
        print(f"failed: {check}")
    if not failed:  # a check may have, or a run that ended before its tests
        failed = len(checks)
    print(f"{passed} passed, {failed} failed, {count['skipped']} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
