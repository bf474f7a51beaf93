"""What a step costs: tokens per second, the share of the hardware's speed that is used (MFU), memory.

MFU is 4 × parameters × tokens/s over the device's peak: two operations per parameter and token forward and
two for the gradient of the activations; the frozen base needs none of its own weights (of full training's
6 × N; Chowdhery et al. 2022, PaLM, appendix B).
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

PEAK_TFLOPS: Mapping[str, float] = {
    "H200": 989,
    "H100": 989,
    "GH200": 989,
    "B200": 2250,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "A6000": 155,
    "RTX 6000 Ada": 364,
    "RTX 5090": 210,
    "RTX 4090": 165,
    "RTX 4080": 97,
    "RTX 3090": 71,
    "V100": 125,
    "T4": 65,
}
"""Dense bf16 (fp16 where there is no bf16) with fp32 sums, in TFLOP/s, from the makers' data sheets."""

OPERATIONS = 4
"""Per parameter and token, for an adapter on a frozen base."""


class Meter:
    """Figures of each step for the metrics file; made once per run."""

    def __init__(self, parameters: int, device: str, cards: int = 1) -> None:
        self._operations = OPERATIONS * parameters
        self._device = device
        self._peak = peak_flops(device) * (cards if device.startswith("cuda") else 1)

    def read(self, tokens: int, seconds: float) -> dict[str, float]:
        """``tokens_per_second``, ``mfu`` (0 to 1) and ``memory_gib`` (the highest so far)."""
        speed = tokens / max(seconds, 1e-9)
        found = {"tokens_per_second": speed, "memory_gib": round(memory_gib(self._device), 3)}
        if self._peak:
            found["mfu"] = round(self._operations * speed / self._peak, 4)
        return found


def parameters_of(model: Any) -> int:
    """The parameters of a model as it computes with them. Those of a base in 4 bits lie packed, several in an
    element; they or their module know the shape."""
    found: dict[int, int] = {}
    for module in model.modules():
        packed = getattr(module, "quant_state", None)
        for name, parameter in module.named_parameters(recurse=False):
            state = getattr(parameter, "quant_state", None) or (packed if name == "weight" else None)
            found[id(parameter)] = math.prod(state.shape) if state is not None else parameter.numel()
    return sum(found.values())


@lru_cache(maxsize=4)
def peak_flops(device: str) -> float:
    """The device's peak in FLOP/s: by its name for a known GPU, else as a product of matrices measures it."""
    import torch

    if device.startswith("cuda"):
        name = torch.cuda.get_device_name()
        for known in sorted(PEAK_TFLOPS, key=len, reverse=True):
            if known in name:
                return PEAK_TFLOPS[known] * 1e12
    return measured_flops(device)


def measured_flops(device: str, size: int = 512, seconds: float = 0.05) -> float:
    """FLOP/s of products of two matrices, the best of several; a twentieth of a second on a CPU."""
    import torch

    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    size = 4096 if device.startswith("cuda") else size
    one = torch.full((size, size), 0.5, dtype=dtype, device=device)
    best, until = 0.0, time.perf_counter() + seconds
    while best == 0.0 or time.perf_counter() < until:
        began = time.perf_counter()
        _ = float((one @ one)[0, 0])
        best = max(best, 2.0 * size**3 / (time.perf_counter() - began))
    return best


def memory_gib(device: str) -> float:
    """The highest use of memory so far in GiB: of the GPU where there is one, else of this process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest / (2**30 if sys.platform == "darwin" else 2**20)


def free_gpu_gib() -> float | None:
    """Memory of the first GPU that is free now, in GiB; None without one."""
    import torch

    return torch.cuda.mem_get_info()[0] / 2**30 if torch.cuda.is_available() else None


def free_ram_gib() -> float | None:
    """Memory that a process can get, in GiB: the machine's, or less where a container has a limit."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None
    return min(kib / 2**20, _container_gib())


def _container_gib() -> float:
    """What a container's limit (cgroup v2) leaves, in GiB; infinite without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        return float("inf") if limit == "max" else max(0, int(limit) - used) / 2**30
    except (OSError, ValueError):
        return float("inf")


class Board:
    """Metrics as TensorBoard reads them, in ``tensorboard/`` of the job's folder (a listener's part).

    Written by tensorboardX, which needs neither TensorFlow nor TensorBoard itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tensorboard"
        self._writer: Any = None

    def write(self, step: int, figures: Mapping[str, Any], group: str = "train") -> None:
        """One value for each number in ``figures``. Raises OSError; ImportError without tensorboardX."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            mask = os.umask(0o077)
            try:
                self._writer = SummaryWriter(str(self.folder), flush_secs=10)
            finally:
                os.umask(mask)
        for name, value in figures.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(f"{group}/{name}", float(value), step)

    def close(self) -> None:
        """Write what is still held back."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
