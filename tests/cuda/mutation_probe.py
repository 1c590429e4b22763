"""What probes have in common: modules that check a library of emulated kernels until something is found.

``python -m PROBE LIBRARY ARGUMENTS...`` prints what found something as its last line and returns 1, or returns 0. The
emulator ends the process, with a line on stderr, where a kernel does what no GPU allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


def first_finding(checks: Iterable[tuple[str, Callable[[], None]]]) -> int:
    """Run checks, each with its name, until one raises ``AssertionError``; return the exit status."""
    for name, check in checks:
        try:
            check()
        except AssertionError as error:
            print(f"{name}: {(str(error).splitlines() or ['differs'])[0]}")
            return 1
    return 0
