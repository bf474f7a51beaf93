"""``gt model export``: a version's weights in the forms that other engines read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import JsonOption, ModelsOption, print_json


def register(app: typer.Typer) -> None:
    """Mount this command."""
    app.command("export")(export)


def export(
    ref: Annotated[str, typer.Argument(metavar="MODEL[:V]", help="MODEL, MODEL:v2 or MODEL@live.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write to.")],
    kind: Annotated[
        str,
        typer.Option("--kind", help="adapter, merged (safetensors); f16, q8_0, q4_k_m, lora (GGUF); commas."),
    ] = "adapter",
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a version's adapter, merged weights or GGUF files; GGUF only where llama.cpp answers the same."""
    from ..export.kinds import export_version
    from ..registry.versions import resolve
    from ..settings import models_home
    from ..training.adapter import quiet_libraries

    quiet_libraries()

    kinds = tuple(k.strip().lower() for k in kind.split(",") if k.strip())
    found = export_version(resolve(models_home(models), ref), out.absolute(), kinds)
    if as_json:
        print_json(found)
        return
    for name, value in found["files"].items():
        top1 = found["parity"].get(name)
        same = f"  (token ids the same, {top1['same']} of {top1['total']} next tokens)" if top1 else ""
        print(f"{name}: {value}{same}")
