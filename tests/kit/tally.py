"""python -m tests.kit.tally REPORT...: one closing line over several pytest runs (JUnit XML reports).

The exit status is 0 when at least one test ran and none failed.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable


def count(reports: Iterable[str]) -> tuple[Counter[str], float]:
    """Outcomes and seconds over all reports. A report that is missing means that its run broke off: one error."""
    outcomes: Counter[str] = Counter()
    seconds = 0.0
    for path in reports:
        try:
            root = ElementTree.parse(path).getroot()
        except (FileNotFoundError, ElementTree.ParseError):
            outcomes["error"] += 1
            continue
        for suite in root.iter("testsuite"):
            seconds += float(suite.get("time", "0"))
            for case in suite.iter("testcase"):
                outcomes[_outcome(case)] += 1
    return outcomes, seconds


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None:
        return "failed"
    if case.find("error") is not None:
        return "error"
    skipped = case.find("skipped")
    if skipped is None:
        return "passed"
    return "xfailed" if skipped.get("type") == "pytest.xfail" else "skipped"


def line(outcomes: Counter[str], seconds: float) -> str:
    """In the words of pytest's own last line."""
    order = ("failed", "passed", "skipped", "xfailed", "error")
    words = ", ".join(_words(name, outcomes[name]) for name in order if outcomes[name]) or "no tests ran"
    return f" {words} in {seconds:.2f}s ".center(80, "=")


def _words(outcome: str, number: int) -> str:
    return f"{number} {outcome}s" if outcome == "error" and number > 1 else f"{number} {outcome}"


def main(reports: list[str]) -> int:
    outcomes, seconds = count(reports)
    print(line(outcomes, seconds))
    return 0 if outcomes["passed"] and not outcomes["failed"] and not outcomes["error"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
