"""Our trainer against TRL's SFTTrainer: the same model, rows, order, LoRA and optimizer, one after the other.

    python bench/train.py --shape tiny                       the shipped base on a CPU
    python bench/train.py --shape 1.5b --rows 4              Qwen2.5-1.5B's shape, random weights, on a GPU
    python bench/train.py --shape 7b --rows 2 --quantize nf4
    torchrun --nproc-per-node 2 bench/train.py --shape 1.5b --rows 4 --only ours
    torchrun --nproc-per-node 2 bench/train.py --shape 7b --rows 1 --only ours --shard

TRL runs with Liger's kernels on a GPU. Rows are ``--length`` tokens long with every token supervised, so that
there is nothing to pack and no padding to win by; ``--ragged`` draws rows of many lengths with loss on their
second half instead, which is what training on sessions looks like. ``--dataset DIR`` takes a dataset's own
rows for the tiny base, as ``gt model train`` renders them, one in a step: its recipe's work.
MFU is 4 × parameters × tokens/s over 989 TFLOP/s. Memory is the most that tensors took while training.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gt_plugins.rendering.render import Row
from gt_plugins.training.adapter import load_base, quiet_libraries
from gt_plugins.training.base import base_path
from gt_plugins.training.callbacks import CallbackGroup, Listener
from gt_plugins.training.metrics import parameters_of
from gt_plugins.training.parallel import join, leave
from gt_plugins.training.sharding import shard

PEAK = 989e12
SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "1.5b": {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "3b": {
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}


@dataclass(frozen=True)
class Measured:
    """One trainer's run: seconds of each step, losses, bytes, and what the steps had in them."""

    name: str
    seconds: tuple[float, ...]
    losses: tuple[float, ...]
    tokens: int
    memory: int
    parameters: int
    first_step: float
    cards: int = 1

    @property
    def rate(self) -> float:
        """Tokens a second in the middle step."""
        return self.tokens / statistics.median(self.seconds)

    @property
    def mfu(self) -> float:
        return 4 * self.parameters * self.rate / (PEAK * self.cards)


def make_rows(options: argparse.Namespace, vocab: int) -> list[Row]:
    """``--rows`` rows for each step: of a dataset, or drawn so that there is something to learn."""
    import random

    if options.dataset:
        return rows_of_dataset(options.dataset)[: options.steps]

    draw = random.Random(options.seed)
    count = options.rows * options.steps * options.group.size
    rows = []
    for _ in range(count):
        length = options.length if not options.ragged else draw.randint(options.length // 8, options.length)
        ids = tuple(min(vocab - 1, int(draw.expovariate(1 / 400))) for _ in range(length))
        rows.append(Row(ids, ((length // 2 if options.ragged else 1, length),), 0, 2, 0))
    return rows


def rows_of_dataset(folder: Path) -> list[Row]:
    """A dataset's rows for the tiny base."""
    from gt_plugins.corpus.dataset import read
    from gt_plugins.rendering.render import TINY, Renderer
    from gt_plugins.training.preflight import rows_of

    return rows_of(read(folder).train, Renderer.from_folder(base_path("tiny")), TINY, print)


def step_tokens(options: argparse.Namespace) -> int:
    """The tokens of a step of one process, so that it has ``--rows`` rows; a dataset's rows stand alone."""
    return 1 if options.dataset else int(options.length * options.rows)


def make_model(options: argparse.Namespace, device: str) -> Any:
    """The base, the same for each trainer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    if options.shape == "tiny":
        return load_base(base_path("tiny"), device)
    torch.manual_seed(options.seed)
    torch.set_default_dtype(torch.bfloat16)
    config = Qwen2Config(**SHAPES[options.shape], max_position_embeddings=32768, use_cache=False)
    with torch.device(device):
        model = Qwen2ForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    if options.quantize == "nf4":
        _to_nf4(model, device, torch.bfloat16 if options.shard else torch.uint8)
    return model


def _to_nf4(model: Any, device: str, storage: Any) -> None:
    """The decoder's linear layers in bitsandbytes' nf4, as loading a checkpoint with it leaves them."""
    import torch
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name, module in list(model.model.named_modules()):
        if not isinstance(module, torch.nn.Linear):
            continue
        parent = model.model.get_submodule(name.rsplit(".", 1)[0])
        has_bias = module.bias is not None
        small = Linear4bit(
            module.in_features,
            module.out_features,
            bias=has_bias,
            compute_dtype=torch.bfloat16,
            quant_type="nf4",
            quant_storage=storage,
            device="meta",
        )
        weight = module.weight.data.to("cpu")
        packed = {"quant_type": "nf4", "quant_storage": storage, "module": small}
        small.weight = Params4bit(weight, requires_grad=False, **packed).to(device)
        if has_bias:
            small.bias = module.bias
        setattr(parent, name.rsplit(".", 1)[1], small)
    model.is_loaded_in_4bit = True
    gc.collect()
    torch.cuda.empty_cache()


class Clock(Listener):
    """Notes each step's end."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_start(self) -> None:
        self.ends.append(time.perf_counter())

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        self.ends.append(time.perf_counter())
        self.losses.append(float(metrics["loss"]))


def ours(options: argparse.Namespace, rows: list[Row], device: str) -> Measured:
    """Our trainer, as ``gt model train`` runs it."""
    from gt_plugins.training.adapter import add_adapter
    from gt_plugins.training.recipe import Recipe
    from gt_plugins.training.trainer import Trainer

    recipe = Recipe(
        rank=16,
        alpha=32,
        rate=options.rate,
        schedule="constant",
        warmup=0.0,
        epochs=1.0,
        batch_tokens=step_tokens(options) * options.group.size,
        quantize=options.quantize,
        shard=options.shard,
        grad_checkpointing=options.checkpointing,
        products=options.products,
        checkpoint_steps=1_000_000,
    )
    model = add_adapter(make_model(options, device), recipe)
    if options.shard:
        model = shard(model, device, options.group)
    clock = Clock()
    listeners = CallbackGroup([clock])
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            *(model, rows, recipe, Path(folder), listeners),
            pad=0,
            device=device,
            say=print,
            group=options.group,
        )
        reset_memory(device)
        trainer.run()
    return measured("ours", clock, rows, options, device, model)


def trl(options: argparse.Namespace, rows: list[Row], device: str) -> Measured:
    """TRL's SFTTrainer on the same rows in the same order."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from gt_plugins.training.adapter import add_adapter
    from gt_plugins.training.loader import collate, plan_batches
    from gt_plugins.training.recipe import Recipe

    steps = plan_batches(rows, step_tokens(options), 1.0, 7)
    ordered = [rows[i] for step in steps for i in step.rows]
    whole = (collate([row], 0) for row in ordered)
    data = Dataset.from_list(
        [{"input_ids": ids[0].tolist(), "labels": labels[0].tolist()} for ids, labels, _ in whole]
    )
    clock = Clock()

    class Ends(TrainerCallback):
        def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
            clock.on_start()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_kwargs: Any) -> None:
            if logs and "loss" in logs:
                clock.on_step(0, logs)

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_args: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    gpu = device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=options.rows,
            gradient_accumulation_steps=1,
            num_train_epochs=1,
            learning_rate=options.rate,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            adam_beta1=0.9,
            adam_beta2=0.99,
            max_grad_norm=1.0,
            bf16=gpu,
            use_cpu=not gpu,
            use_liger_kernel=gpu and not options.no_liger,
            gradient_checkpointing=options.checkpointing,
            optim="adamw_torch_fused",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            packing=False,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            dataloader_num_workers=0,
            seed=options.seed,
        )
        trainer = InOrder(
            model=add_adapter(make_model(options, device), Recipe(rank=16, alpha=32)),
            args=config,
            train_dataset=data,
            processing_class=a_tokenizer(),
            callbacks=[Ends()],
        )
        trainer.remove_callback(PrinterCallback)
        reset_memory(device)
        trainer.train()
    return measured("TRL", clock, rows, options, device, trainer.model)


def a_tokenizer() -> Any:
    """The tiny base's: the rows are token ids already, TRL asks for one all the same."""
    from transformers import PreTrainedTokenizerFast

    folder = base_path("tiny")
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


def reset_memory(device: str) -> None:
    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measured(
    name: str, clock: Clock, rows: list[Row], options: argparse.Namespace, device: str, model: Any
) -> Measured:
    """What the clock saw, without the first steps in which kernels are compiled and memory is found."""
    import torch

    took = [b - a for a, b in zip(clock.ends, clock.ends[1:], strict=False)]
    warm = took[options.warm :]
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    parameters = parameters_of(model) - sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens = sum(len(r.ids) for r in rows) // len(took)
    return Measured(
        name, tuple(warm), tuple(clock.losses), tokens, memory, parameters, took[0], options.group.size
    )


def report(options: argparse.Namespace, runs: list[Measured], card: str) -> None:
    print(
        f"{options.shape} {options.quantize} products={options.products} "
        f"checkpointing={options.checkpointing} on {card}"
    )
    print(f"{'':6}{'tokens/s':>10}{'memory GiB':>12}{'MFU':>7}{'last loss':>11}{'first step s':>14}")
    for run in runs:
        print(
            f"{run.name:6}{run.rate:>10,.0f}{run.memory / 2**30:>12.1f}{run.mfu:>7.3f}"
            f"{run.losses[-1]:>11.4f}{run.first_step:>14.1f}"
        )
    if len(runs) == 2:
        apart = max(abs(a - b) for a, b in zip(runs[0].losses, runs[1].losses, strict=False))
        print("losses", *(f"{a:.4f}/{b:.4f}" for a, b in zip(runs[0].losses, runs[1].losses, strict=False)))
        print(f"ours is {runs[0].rate / runs[1].rate:.2f} times TRL; losses are at most {apart:.4f} apart")


def parser_of(words: str | None) -> argparse.ArgumentParser:
    """The options of a run; ``bench/train_fsdp.py`` has the same."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shape", choices=["tiny", *SHAPES], default="tiny")
    parser.add_argument("--rows", type=int, default=1, help="rows of a step (on each GPU)")
    parser.add_argument("--length", type=int, default=0, help="tokens of a row (4,096; 1,152 for tiny)")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=4, help="first steps that are not counted")
    parser.add_argument("--quantize", choices=["none", "nf4"], default="none")
    parser.add_argument("--products", choices=["bf16", "fp8"], default="bf16", help="ours alone")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--shard", action="store_true", help="cut the base over torchrun's processes (FSDP2)")
    parser.add_argument("--ragged", action="store_true")
    parser.add_argument("--dataset", type=Path, help="its rows, one in a step, instead of drawn ones (tiny)")
    parser.add_argument("--no-liger", action="store_true")
    parser.add_argument("--only", choices=["ours", "trl"])
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write everything that was measured")
    return parser


def main() -> int:
    options = parser_of(__doc__).parse_args()
    options.group = join()
    options.length = options.length or (1152 if options.shape == "tiny" else 4096)
    quiet_libraries()
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vocab = 1536 if options.shape == "tiny" else SHAPES[options.shape]["vocab_size"]
    rows = make_rows(options, vocab)
    runs = []
    for name, run in (("ours", ours), ("trl", trl)):
        if name == "trl" and find_spec("trl") is None:
            print("TRL is not installed here, so there is nothing to compare with: pip install trl")
            continue
        if options.only in (None, name):
            runs.append(run(options, rows, device))
            reset_memory(device)
    card = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    if options.group.first:
        report(options, runs, card)
    leave()
    if options.json and options.group.first:
        options.json.write_text(json.dumps([asdict(r) for r in runs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
