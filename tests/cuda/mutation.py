"""What a planted bug is, and what is needed to plant and find those of a kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Mutation:
    """A bug.

    Attributes:
        name: What is wrong.
        old: Text of the file.
        new: What stands there instead.
        file: Within csrc; default: that of the target.
        macros: The instances that are compiled, where they are others than the target's.
        first_only: Replace the first occurrence only.
    """

    name: str
    old: str
    new: str
    file: str | None = None
    macros: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    first_only: bool = False


@dataclass(frozen=True)
class Pin:
    """A change of a source that makes it choose what is compiled: an instance of many costs a tenth of the time.

    Attributes:
        file: Within csrc.
        pattern: A regular expression.
        replacement: What stands in the place of every match; ``{PI_HEAD_DIM}`` is the first value of that macro.
    """

    file: str
    pattern: str
    replacement: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kernel that gets bugs.

    Attributes:
        name: As the table in docs/cuda.md calls it.
        operator: Its folder of csrc.
        sources: The .cu files that are compiled; others of the folder are left out, calls into them end the process.
        macros: Values of macros of csrc/instances.json that are compiled, fewer than there.
        pins: Changes of sources that choose these instances.
        probe: Module that checks a library: ``python -m PROBE LIBRARY ARGUMENTS...``, see mutation_probe.py.
        probe_arguments: May have macros in braces, as pins may.
        driver: Program of this folder for sanitizers: ``DRIVER FIRST COUNT ARGUMENTS...``.
        driver_arguments: The same for the driver.
        driver_cases: COUNT.
        file: Where bugs are that name no file.
        bugs: What is planted.
    """

    name: str
    operator: str
    sources: tuple[str, ...]
    probe: str
    driver: str
    file: str
    bugs: tuple[Mutation, ...]
    macros: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    pins: tuple[Pin, ...] = ()
    probe_arguments: tuple[str, ...] = ()
    driver_arguments: tuple[str, ...] = ()
    driver_cases: int = 16

    def first_values(self, bug: Mutation | None) -> dict[str, str]:
        """Return what stands for macros in braces."""
        macros = {**self.macros, **(bug.macros if bug else {})}
        return {name: str(values[0]) for name, values in macros.items()}
