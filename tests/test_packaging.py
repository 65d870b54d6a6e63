"""Installed packages are pinned, by version everywhere and by content in CI; the built package holds no results."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def lines(name: str) -> list[str]:
    return (ROOT / name).read_text(encoding="utf-8").splitlines()


def key(name: str) -> str:
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_ci_installs_each_pinned_version_by_its_hash():
    pinned = {key(name): version for name, version in (line.split("==") for line in lines("constraints.txt"))}
    locked = {}
    for line in lines(".ci/lock.txt"):
        found = re.fullmatch(r"(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}", line)
        assert found, line
        locked[key(found[1])] = found[2]
    del pinned["torch"]  # its builds differ from machine to machine
    assert locked == pinned, "run .ci/lock after a change of constraints.txt"


def test_what_builds_the_package_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert all("==" in name for name in project["build-system"]["requires"])
    assert project["tool"]["hatch"]["build"]["targets"]["sdist"]["exclude"] == ["/results"]
