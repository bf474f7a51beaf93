"""``gt model base build``: pre-train the tiny base from scratch, from a seed, on generated text.

Documents are rendered by the code that renders live requests, sorted into lengths (so that no document
sees another, and positions begin at 0 as they will when served) and trained on for some passes. Tokens of
the prompt count a tenth of a reply's tokens in the loss. Matrices of the blocks are trained with Muon
(torch.optim.Muon, Jordan et al. 2024), everything else with AdamW; the rate warms up and falls to zero.

One H200 takes ten minutes; a CPU can run the same code with small numbers, for tests.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..rendering.render import Budget, Renderer
from ..sim.documents import document
from .base import CHAT_TEMPLATE, END, STOP, TinyShape, new_model, save_base, train_tokenizer

if TYPE_CHECKING:
    import numpy as np
    import torch

LENGTHS = (128, 192, 256, 320, 512, 1024, 2048)
WHOLE = Budget(request=2048, result=400, prime=2048, reply=2048)


@dataclass(frozen=True)
class PretrainPlan:
    """How the base is made; with the seed it determines the result (to rounding, on the same device)."""

    documents: int = 500_000
    passes: float = 5.0
    batch_tokens: int = 131_072
    matrix_rate: float = 0.02
    other_rate: float = 3e-3
    prompt_weight: float = 0.1
    longest: int = 2048
    """Tokens; longer documents are left out."""
    muon: bool = True
    """Muon for the matrices; AdamW for them too where False (Muon's bf16 steps crawl on a CPU)."""
    warmup: float = 0.02
    seed: int = 20261123
    shape: TinyShape = field(default_factory=TinyShape)


@dataclass(frozen=True)
class Progress:
    """One line of the live display."""

    stage: str
    done: int
    total: int
    loss: float = float("nan")


Report = Callable[[Progress], None]


def documents_text(seed: int, first: int, count: int) -> list[str]:
    """Documents as plain text, for training the tokenizer."""
    texts = []
    for index in range(first, first + count):
        conversation = document(seed, index)
        parts = [conversation.system, conversation.prime]
        for message in conversation.messages:
            for block in message.blocks:
                parts.append(str(block.get("text") or block.get("content") or block.get("input", "")))
        texts.append("\n".join(parts))
    return texts


def encode_documents(
    tokenizer_json: str, seed: int, longest: int, first: int, count: int
) -> list[tuple[bytes, bytes]]:
    """Documents as (ids, weights) in uint16 and uint8 (0 or 1: is it a reply's token), one of each a row."""
    import numpy as np
    from tokenizers import Tokenizer

    renderer = Renderer(Tokenizer.from_str(tokenizer_json), CHAT_TEMPLATE, (STOP,), WHOLE.request)
    rows = []
    for index in range(first, first + count):
        for row in renderer.rows(document(seed, index), WHOLE):
            if len(row.ids) > longest:
                continue
            taught = np.zeros(len(row.ids), np.uint8)
            for start, end in row.spans:
                taught[start:end] = 1
            rows.append((np.asarray(row.ids, np.uint16).tobytes(), taught.tobytes()))
    return rows


@dataclass(frozen=True)
class Shelf:
    """All rows of one length: ids and taught, both [rows, length], padded with the end token."""

    ids: np.ndarray
    taught: np.ndarray


def make_shelves(rows: list[tuple[bytes, bytes]], pad: int) -> dict[int, Shelf]:
    """Rows sorted by length and padded. Padding has taught = 2, which carries no loss at all."""
    import numpy as np

    by_length: dict[int, list[tuple[bytes, bytes]]] = {n: [] for n in LENGTHS}
    for row in rows:
        size = len(row[0]) // 2
        by_length[next(n for n in LENGTHS if n >= size)].append(row)
    shelves = {}
    for length, found in by_length.items():
        if not found:
            continue
        ids = np.full((len(found), length), pad, np.uint16)
        taught = np.full((len(found), length), 2, np.uint8)
        for i, (a, b) in enumerate(found):
            size = len(b)
            ids[i, :size] = np.frombuffer(a, np.uint16)
            taught[i, :size] = np.frombuffer(b, np.uint8)
        shelves[length] = Shelf(ids, taught)
    return shelves


def batches(shelves: dict[int, Shelf], plan: PretrainPlan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of one length each, in an order drawn from the seed, for ``passes`` passes."""
    import numpy as np

    rng = np.random.default_rng(plan.seed)
    order: list[tuple[int, np.ndarray]] = []
    for whole in range(math.ceil(plan.passes)):
        share = min(1.0, plan.passes - whole)
        part: list[tuple[int, np.ndarray]] = []
        for length, shelf in shelves.items():
            size = max(1, plan.batch_tokens // length)
            picks = rng.permutation(len(shelf.ids))
            part += [(length, picks[i : i + size]) for i in range(0, len(picks) - size + 1, size)]
        shuffled = [part[i] for i in rng.permutation(len(part))]
        order += shuffled[: round(len(shuffled) * share)]
    for length, picks in order:
        yield shelves[length].ids[picks], shelves[length].taught[picks]


def count_batches(shelves: dict[int, Shelf], plan: PretrainPlan) -> int:
    """How many batches ``batches`` will give."""
    total = 0
    for whole in range(math.ceil(plan.passes)):
        n = sum(len(s.ids) // max(1, plan.batch_tokens // length) for length, s in shelves.items())
        total += round(n * min(1.0, plan.passes - whole))
    return total


def weighted_loss(
    logits: torch.Tensor, ids: torch.Tensor, taught: torch.Tensor, prompt: float
) -> torch.Tensor:
    """Mean cross entropy over the next tokens, replies at weight 1, prompts at ``prompt``, padding at 0.

    Shapes: logits [batch, length, vocab], ids and taught [batch, length]."""
    import torch
    from torch.nn.functional import cross_entropy

    targets, kind = ids[:, 1:], taught[:, 1:]
    loss = cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="none")
    weights = torch.where(kind == 1, 1.0, torch.where(kind == 0, prompt, 0.0)).flatten()
    return (loss * weights).sum() / weights.sum().clamp(min=1.0)


def make_rows(
    plan: PretrainPlan, tokenizer_json: str, workers: int, report: Report
) -> list[tuple[bytes, bytes]]:
    """All documents encoded, by ``workers`` processes."""
    chunk = 2000
    starts = list(range(0, plan.documents, chunk))
    encode = partial(encode_documents, tokenizer_json, plan.seed, plan.longest)
    rows: list[tuple[bytes, bytes]] = []
    with ProcessPoolExecutor(workers) as pool:
        sizes = [min(chunk, plan.documents - s) for s in starts]
        for number, part in enumerate(pool.map(encode, starts, sizes)):
            rows += part
            report(Progress("documents", starts[number] + len(part), plan.documents))
    return rows


def optimizers(model: Any, plan: PretrainPlan) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings and norms; or AdamW for all."""
    import torch

    if not plan.muon:
        return [
            torch.optim.AdamW(model.parameters(), lr=plan.other_rate, betas=(0.9, 0.95), weight_decay=0.0)
        ]

    matrices = [
        p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "lm_head" not in n
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=plan.other_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_at(step: int, total: int, warmup: float) -> float:
    """Share of the full rate: up in a straight line, level, and down to zero over the last half."""
    up = max(1, int(total * warmup))
    if step < up:
        return (step + 1) / up
    return min(1.0, 2.0 * (total - step) / total)


def pretrain(plan: PretrainPlan, out: Path, device: str, workers: int, report: Report) -> dict[str, Any]:
    """Make the base in ``out`` from nothing; returns its data card.

    Deterministic up to the device's rounding."""
    import torch

    random.seed(plan.seed)
    texts = documents_text(plan.seed + 1, 0, min(20_000, plan.documents))
    tokenizer: Any = train_tokenizer(texts, plan.shape.vocab)
    model: Any = new_model(plan.shape, tokenizer, plan.seed)
    rows = make_rows(plan, tokenizer.to_str(), workers, report)
    shelves = make_shelves(rows, tokenizer.token_to_id(END))
    model.to(device)
    torch.set_float32_matmul_precision("high")
    forward = torch.compile(model, dynamic=False) if device == "cuda" else model
    total = count_batches(shelves, plan)
    optims = optimizers(model, plan)
    starting = [[g["lr"] for g in o.param_groups] for o in optims]
    tokens, recent = 0, 0.0
    for step, (ids, taught) in enumerate(batches(shelves, plan)):
        x = torch.from_numpy(ids.astype("int64")).to(device)
        t = torch.from_numpy(taught.astype("int64")).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = forward(input_ids=x, use_cache=False).logits
        loss = weighted_loss(logits, x, t, plan.prompt_weight)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = rate_at(step, total, plan.warmup)
        for optim, rates in zip(optims, starting, strict=True):
            for group, rate in zip(optim.param_groups, rates, strict=True):
                group["lr"] = rate * share
            optim.step()
            optim.zero_grad(set_to_none=True)
        tokens += int((taught != 2).sum())
        if step % 50 == 0 or step == total - 1:
            recent = float(loss.detach())
            report(Progress("training", step + 1, total, recent))
    card = {
        "plan": {k: v for k, v in asdict(plan).items() if k != "shape"},
        "rows": len(rows),
        "tokens_seen": tokens,
        "final_loss": recent,
        "text": "generated by gt_plugins.sim.documents; no role that can be tuned, no held-out phrase",
    }
    save_base(out, model, tokenizer, plan.shape, card)
    return card
