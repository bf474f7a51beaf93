"""Small adapters and versions for the tests of registry, gate and deploy; no torch needed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy

from gt_plugins.evaluation.result import CaseResult, EvalResult
from gt_plugins.registry.evals import store
from gt_plugins.registry.versions import ROLE_FILES, Version, register

FENCE = '[[allow]]\nname = "escalate"\npattern = "gt escalate [a-z ]+"\n'


def write_safetensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> None:
    """A safetensors file from (dtype, shape, bytes) by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, (dtype, shape, data) in tensors.items():
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": offsets}
        body += data
    head = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(head)) + head + body)


def make_source(folder: Path, value: float = 0.5, *, profile: bool = True) -> Path:
    """What a trainer leaves: an adapter of one tensor, and the role's profile."""
    data = numpy.full((2, 3), value, dtype="<f4").tobytes()
    write_safetensors(folder / "adapter/adapter_model.safetensors", {"lora_A": ("F32", (2, 3), data)})
    (folder / "adapter/adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    if profile:
        (folder / "role").mkdir(exist_ok=True)
        for name in ROLE_FILES:
            (folder / "role" / name).write_text(FENCE if name == "fence.toml" else f"# {name}\n")
    return folder


def make_base(folder: Path) -> Path:
    """A folder that looks like a base model."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    return folder


def make_version(
    home: Path, tmp: Path, model: str = "gt-ft-deacon", role: str = "deacon", **meta: Any
) -> Version:
    """Register one more version of ``model``; its adapter's number tells it from the others."""
    count = len(list((home / model).glob("v*"))) if (home / model).is_dir() else 0
    source = make_source(tmp / f"source-{model}-{count}", float(count + 1))
    return register(home, model, role, source, str(make_base(tmp / "base")), meta)


def make_result(
    version: Version, right: int, n: int = 100, suite: str = "decisions", served: bool = True
) -> EvalResult:
    """A result with ``right`` of ``n`` cases right."""
    cases = [CaseResult(f"c{i}", "seen", "a", "a" if i < right else "b", i < right) for i in range(n)]
    return EvalResult.from_cases(version.model, version.version, suite, cases, engine="fake", served=served)


def score(home: Path, version: Version, right: int, n: int = 100, **more: Any) -> Path:
    """Store such a result."""
    return store(home, version, make_result(version, right, n, **more))
