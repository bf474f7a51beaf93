"""A base that does not fit one GPU: each process of a group keeps a part of its frozen weights (FSDP2).

torch's ``fully_shard`` cuts every decoder layer's weights over the processes, in bf16 or in nf4; a layer is
made whole just before it is used, forward and backward, and let go again. The adapter, the embedding and the
output layer stay whole in each process: the adapter is small, so its gradient is summed as without sharding
(``parallel``), its optimizer is the same, and the first process's checkpoint needs nothing of the others.

The engine takes weights as they lie; a sharded base goes through the model's own forward instead.
"""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from .parallel import Group


def check(shard: bool, group: Group) -> None:
    """Raises UserError where there is nobody to share a base with."""
    if shard and group.alone:
        mend = "torchrun --nproc-per-node N -m gt_plugins.cli.model train …"
        raise UserError(f"recipe: shard: there is one process to hold the base; start several: {mend}")


def shard(model: Any, device: str, group: Group) -> Any:
    """The peft model with its base cut over the group, on ``device``. The base may come from the CPU: each
    layer is moved and cut before the next one, so none of the devices ever holds it whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    body = model.get_base_model().model
    mesh = init_device_mesh(device, (group.size,))
    whole = {p for p in model.parameters() if p.requires_grad}
    whole |= {p for name, p in model.named_parameters() if ".layers." not in name}
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for layer in body.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    fully_shard(body, mesh=mesh, ignored_params=whole)
    return model


def sharded(model: Any) -> bool:
    """Whether a model's base is cut over processes."""
    return hasattr(getattr(model.get_base_model(), "model", None), "unshard")
