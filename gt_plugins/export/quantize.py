"""Four bits through llama.cpp's own quantizer, which the ``gguf`` library does not have.

Q4_K_M keeps some tensors at more bits; rows that no block of 256 divides get five or eight bits instead, so a
small network shrinks less than a large one.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ..durable import PRIVATE_FILE, fsync_dir
from ..errors import FinetuneError, UserError, in_file
from .parity import available

Q4_K_M = "q4_k_m"


def need_quantizer() -> None:
    """Raises UserError where llama.cpp is not installed."""
    if not available():
        raise UserError(f"{Q4_K_M} needs llama.cpp; install the extra 'serve'")


def quantize(source: Path, target: Path) -> None:
    """Write the F16 file ``source`` as Q4_K_M; ``target`` appears by one rename.

    Raises UserError without llama.cpp, FinetuneError where it refuses (it says why on its own log)."""
    need_quantizer()
    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL + 1)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    options.nthread = os.cpu_count() or 1
    stage = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        code = llama_cpp.llama_model_quantize(str(source).encode(), str(stage).encode(), options)
        if code != 0 or not stage.is_file():
            raise FinetuneError(in_file(target, "", f"llama.cpp cannot quantize it (code {code})", ""))
        os.chmod(stage, PRIVATE_FILE)
        with stage.open("rb") as handle:
            os.fsync(handle.fileno())
        os.replace(stage, target)
    finally:
        stage.unlink(missing_ok=True)
    fsync_dir(target.parent)
