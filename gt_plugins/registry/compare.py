"""Two versions side by side: how they were made, which files differ, and their answers case by case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import evals
from .journal import fold
from .versions import Version

_IDENTITY = ("model", "version", "created", "files", "format")


def compare(home: Path, a: Version, b: Version) -> dict[str, Any]:
    """``a`` and ``b``, ``manifest`` {key: [a, b]}, ``files`` {name: change}, ``suites`` {name: figures}."""
    return {
        "a": a.ref,
        "b": b.ref,
        "manifest": _manifest(a.manifest, b.manifest),
        "files": _files(a.manifest.get("files") or {}, b.manifest.get("files") or {}),
        "suites": _suites(home, a, b),
    }


def _manifest(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    left, right = flat(one), flat(other)
    keys = [k for k in {**left, **right} if k.split(".")[0] not in _IDENTITY]
    return {k: [left.get(k), right.get(k)] for k in sorted(keys) if left.get(k) != right.get(k)}


def _files(one: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    changes = {}
    for name in sorted({**one, **other}):
        if name not in other:
            changes[name] = "only in the first"
        elif name not in one:
            changes[name] = "only in the second"
        elif one[name].get("sha256") != other[name].get("sha256"):
            changes[name] = (
                f"differs ({one[name].get('bytes', 0):,} and {other[name].get('bytes', 0):,} bytes)"
            )
    return changes


def _suites(home: Path, a: Version, b: Version) -> dict[str, dict[str, Any]]:
    """Per suite that both have an intact result of: scores and the paired difference of b over a."""
    state = fold(home)
    names = dict.fromkeys(e.suite for e in state.evaluated.get((a.model, a.version), []))
    found = {}
    for name in names:
        one, other = (evals.latest(home, v, name, state=state) for v in (a, b))
        if one is None or other is None:
            continue
        try:
            paired = other.against(one)
        except ValueError:
            continue  # the suite was changed in between: no case in common, so nothing to compare
        found[name] = {
            "a": one.score,
            "b": other.score,
            "difference": paired.difference,
            "low": paired.low,
            "high": paired.high,
            "p": paired.p,
            "n": paired.n,
        }
    return found


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found
