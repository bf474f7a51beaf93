"""Checkpoints from which training goes on to the bit.

A checkpoint is a folder ``step-000120/`` that appears by one rename, complete:

    adapter.safetensors    what is trained
    optimizer.safetensors  the optimizer's tensors; its numbers are in state.json
    rng.safetensors        the states of torch's, python's and numpy's random numbers
    state.json             step, the trainer's own counters, and the sha256 of each file and of itself

There is no pickle anywhere: a checkpoint from somebody else can be wrong, but it cannot run code.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..durable import fsync_dir, parse_json, private_dir, staged_dir, write_json
from ..errors import FinetuneError, NonRetriableError, in_file
from .safefile import load_tensors, save_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

FORMAT = 1
ADAPTER, OPTIMIZER, RNG, STATE = "adapter", "optimizer", "rng", "state.json"
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Flat:
    """Something taken apart into tensors (by name) and JSON that says how to put it together again."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: Any = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified; tensors are on the CPU."""

    path: Path
    step: int
    adapter: dict[str, Tensor]
    state: dict[str, Any]
    optimizer: Flat | None
    rng: Flat | None


@dataclass(frozen=True)
class Latest:
    """The newest intact checkpoint, or None, and a line for each newer one that was not intact."""

    checkpoint: Checkpoint | None
    problems: list[str]


# -- writing ----------------------------------------------------------------------------------------


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    optimizer: Flat | None = None,
    rng: Flat | None = None,
) -> Path:
    """Write ``folder/step-NNNNNN`` whole or not at all, and return it; one of the same step is replaced.

    Raises FinetuneError where the disk is full or the state is not JSON; earlier checkpoints are untouched.
    """
    target = folder / f"step-{step:06d}"
    parts = {ADAPTER: dict(tensors)}
    parts |= {name: flat.tensors for name, flat in ((OPTIMIZER, optimizer), (RNG, rng)) if flat}
    body = {
        "format": FORMAT,
        "step": step,
        "state": dict(state),
        "optimizer": optimizer.meta if optimizer else None,
        "rng": rng.meta if rng else None,
    }
    try:
        text = json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise NonRetriableError(f"checkpoint {target.name}: its state is not JSON ({error})") from None
    private_dir(folder)
    _sweep(folder)
    _check_room(folder, parts, len(text))
    ready = target.with_name(f".{target.name}.ready.tmp") if target.exists() else target
    try:
        with staged_dir(ready) as stage:
            _write_parts(stage, parts, body)
        if ready != target:
            _remove(target)
            os.rename(ready, target)
            fsync_dir(folder)
    except OSError as error:
        raise _write_error(target, error) from None
    return target


def _write_parts(stage: Path, parts: Mapping[str, Mapping[str, Tensor]], body: dict[str, Any]) -> None:
    hashes = {}
    for name, tensors in parts.items():
        path = stage / f"{name}.safetensors"
        save_tensors(path, tensors)
        hashes[path.name] = file_hash(path)
    body = body | {"sha256": hashes}
    write_json(stage / STATE, body | {"self": _body_hash(body)})


def _check_room(folder: Path, parts: Mapping[str, Mapping[str, Tensor]], extra: int) -> None:
    need = sum(t.numel() * t.element_size() for part in parts.values() for t in part.values())
    need += extra + sum(len(name) + 200 for part in parts.values() for name in part)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise FinetuneError(
            in_file(
                folder,
                "",
                f"no space for a checkpoint: {need / 1e6:.2f} MB needed, {free / 1e6:.2f} MB free",
                "free some and resume; the checkpoints before it are intact",
            )
        )


def _write_error(target: Path, error: OSError) -> FinetuneError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    problem = "the disk is full" if full else (error.strerror or str(error)).splitlines()[0]
    return FinetuneError(
        in_file(target, "", f"not written: {problem}", "free space and resume; those before it are intact")
    )


def _sweep(folder: Path) -> None:
    """Remove what a kill -9 left half written or half removed; one job writes here at a time."""
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    """Take a checkpoint away so that it is never seen half removed."""
    if path.exists():
        trash = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        os.rename(path, trash)
        fsync_dir(path.parent)
        shutil.rmtree(trash, ignore_errors=True)


def keep_last(folder: Path, n: int, *, protect: Collection[Path] = ()) -> list[Path]:
    """Remove all but the newest ``n`` checkpoints (and ``protect``, the best one); returns those removed."""
    if n < 1:
        raise ValueError("at least one checkpoint is kept")
    kept = {p.name for p in protect}
    old = [p for p in checkpoints(folder)[:-n] if p.name not in kept]
    for path in old:
        _remove(path)
    return old


# -- reading ----------------------------------------------------------------------------------------


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder by step, whether intact or not."""
    if not folder.is_dir():
        return []
    found = [(int(m[1]), p) for p in folder.iterdir() if (m := _NAME.fullmatch(p.name)) and p.is_dir()]
    return [path for _, path in sorted(found)]


def load(path: Path) -> Checkpoint:
    """Read a checkpoint and verify every hash. Raises NonRetriableError naming the file that is not right."""
    problem = _problem(path)
    if problem:
        raise NonRetriableError(problem)
    body = parse_json((path / STATE).read_text(encoding="utf-8"))
    tensors = {name: load_tensors(path / name) for name in body["sha256"]}

    def flat(name: str) -> Flat | None:
        file = f"{name}.safetensors"
        return Flat(tensors[file], body[name]) if file in tensors else None

    return Checkpoint(
        path,
        body["step"],
        tensors[f"{ADAPTER}.safetensors"],
        body["state"],
        flat(OPTIMIZER),
        flat(RNG),
    )


def latest(folder: Path) -> Latest:
    """The newest checkpoint that is intact; each newer one that is not is told in a line."""
    problems: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return Latest(load(path), problems)
        except NonRetriableError as error:
            problems.append(f"{error}; trying the one before")
    return Latest(None, problems)


def _problem(path: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None."""
    state = path / STATE
    try:
        body = parse_json(state.read_text(encoding="utf-8"))
        told = body.pop("self")
        hashes = dict(body["sha256"])
        right = told == _body_hash(body) and f"{ADAPTER}.safetensors" in hashes
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return in_file(state, "", f"not the state of a checkpoint ({type(error).__name__})", "")
    if not right:
        return in_file(state, "self", "its hash does not match", "")
    if body["format"] != FORMAT:
        return in_file(
            state, "format", f"{body['format']} is not known here", "use the version that wrote it"
        )
    for name, wanted in hashes.items():
        file = path / name
        try:
            if file_hash(file) != wanted:
                return in_file(file, "", "its hash does not match: it was changed or is damaged", "")
        except OSError as error:
            return in_file(file, "", str(error.strerror), "")
    return None


def file_hash(path: Path) -> str:
    """sha256 of a file, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _body_hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


# -- optimizers -------------------------------------------------------------------------------------


def flatten_optimizer(optimizer: Optimizer) -> Flat:
    """An optimizer's state as tensors and JSON: for any whose state is tensors, numbers, text and lists.

    Raises NonRetriableError naming a value of another kind.
    """
    tensors: dict[str, Tensor] = {}
    groups, states, index = [], [], 0
    for number, group in enumerate(optimizer.param_groups):
        options = {k: v for k, v in group.items() if k != "params"}
        params = []
        for param in group["params"]:
            params.append({"index": index, "shape": list(param.shape)})
            if param in optimizer.state:
                states.append([index, _pack(dict(optimizer.state[param]), f"state.{index}", tensors)])
            index += 1
        groups.append({"params": params, "options": _pack(options, f"group.{number}", tensors)})
    return Flat(tensors, {"kind": type(optimizer).__name__, "groups": groups, "state": states})


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Put a flattened state into an optimizer over the same parameters, to the bit and in its own types.

    Raises NonRetriableError, and changes nothing, where kind, groups or shapes are not those of the state.
    """
    params = _matched(optimizer, meta)
    here = params[0].device if params else "cpu"
    options = [_unpack(saved["options"], tensors, here) for saved in meta["groups"]]
    states = {index: _unpack(packed, tensors, params[index].device) for index, packed in meta["state"]}
    optimizer.state.clear()
    for group, saved in zip(optimizer.param_groups, options, strict=True):
        group.update(saved)
    for index, state in states.items():
        optimizer.state[params[index]] = state


def _matched(optimizer: Optimizer, meta: Mapping[str, Any]) -> list[Any]:
    """The optimizer's parameters by index, checked against the saved ones."""
    if meta.get("kind") != type(optimizer).__name__:
        raise NonRetriableError(
            f"the checkpoint is of optimizer {meta.get('kind')}, this one is {type(optimizer).__name__}"
        )
    groups = meta["groups"]
    if len(groups) != len(optimizer.param_groups):
        raise NonRetriableError(
            f"the checkpoint has {len(groups)} parameter groups, the optimizer {len(optimizer.param_groups)}"
        )
    params: list[Any] = []
    for number, (group, saved) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
        shapes = [list(p.shape) for p in group["params"]]
        if shapes != [p["shape"] for p in saved["params"]]:
            raise NonRetriableError(f"parameter group {number} has other shapes than in the checkpoint")
        params += group["params"]
    return params


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """JSON for ``value``; tensors in it go to ``tensors`` under a name that says where they stood."""
    import torch

    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": [name, value.device.type]}
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, list | tuple):
        packed = [_pack(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": packed}
    if isinstance(value, dict):
        return {"dict": [[_pack(k, name, {}), _pack(v, f"{name}.{k}", tensors)] for k, v in value.items()]}
    raise NonRetriableError(
        f"the optimizer's {name} is a {type(value).__name__}, which a checkpoint cannot hold"
    )


def _unpack(packed: Any, tensors: Mapping[str, Tensor], device: Any) -> Any:
    """The inverse of ``_pack``. What was on the CPU (a step count) stays; the rest goes to ``device``."""
    if not isinstance(packed, dict):
        return packed
    ((kind, value),) = packed.items()
    match kind:
        case "tensor":
            name, kind_of_device = value
            if name not in tensors:
                raise NonRetriableError(f"the checkpoint lacks the optimizer's tensor {name}")
            return tensors[name].to("cpu" if kind_of_device == "cpu" else device, copy=True)
        case "float":
            return float.fromhex(value)
        case "list":
            return [_unpack(v, tensors, device) for v in value]
        case "tuple":
            return tuple(_unpack(v, tensors, device) for v in value)
        case "dict":
            return {_unpack(k, tensors, device): _unpack(v, tensors, device) for k, v in value}
    raise NonRetriableError(f"the checkpoint holds a value of unknown kind {kind!r}")


# -- random numbers ---------------------------------------------------------------------------------


def rng_state() -> Flat:
    """The states of every source of random numbers that training uses, as uint8 tensors."""
    import random

    import numpy as np
    import torch

    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    tensors = {
        "torch": torch.get_rng_state(),
        "python": _bytes_tensor(np.asarray(words, dtype="<u4").tobytes()),
        "numpy": _bytes_tensor(np.asarray(keys, dtype="<u4").tobytes()),
    }
    if torch.cuda.is_available():
        for device, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda.{device}"] = state
    meta = {
        "python": [version, None if gauss is None else float(gauss).hex()],
        "numpy": [str(kind), int(position), int(has_gauss), float(cached).hex()],
    }
    return Flat(tensors, meta)


def set_rng_state(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Put the states back. Devices that are not here (another machine) are passed over."""
    import random

    import numpy as np
    import torch

    try:
        version, gauss = meta["python"]
        words = np.frombuffer(tensors["python"].numpy().tobytes(), dtype="<u4")
        kind, position, has_gauss, cached = meta["numpy"]
        keys = np.frombuffer(tensors["numpy"].numpy().tobytes(), dtype="<u4").astype(np.uint32)
        python = (version, tuple(int(w) for w in words), None if gauss is None else float.fromhex(gauss))
        torch_state = tensors["torch"]
    except (KeyError, TypeError, ValueError) as error:
        raise NonRetriableError(f"the checkpoint's random states are not right ({error})") from None
    random.setstate(python)
    np.random.set_state((kind, keys, position, has_gauss, float.fromhex(cached)))
    torch.set_rng_state(torch_state)
    for device in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda.{device}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{device}"], device)


def _bytes_tensor(data: bytes) -> Tensor:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
