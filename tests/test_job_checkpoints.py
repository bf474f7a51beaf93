"""Checkpoints: exact resume, verified reading, fallback, a full disk; and the gathering of parts."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.errors import FinetuneError, NonRetriableError, RetriableError

torch = pytest.importorskip("torch")

from gt_plugins.training import checkpoints as cp  # noqa: E402
from gt_plugins.training.gather import gather, gather_with_retries, save_replica, save_shard  # noqa: E402
from gt_plugins.training.safefile import TornFile, read_header  # noqa: E402


def small(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "a.lora_A.weight": torch.randn(4, 16, generator=generator),
        "a.lora_B.weight": torch.randn(16, 4, generator=generator).to(torch.bfloat16),
    }


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    def bits(t: torch.Tensor) -> torch.Tensor:
        return t.reshape(-1).view(torch.uint8)

    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype
        and left[k].shape == right[k].shape
        and torch.equal(bits(left[k]), bits(right[k]))
        for k in left
    )


# -- exact resume -----------------------------------------------------------------------------------


class Trainer:
    """A tiny model with dropout, data drawn from all three sources of random numbers, and a schedule."""

    def __init__(self, kind: str) -> None:
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(8, 32), torch.nn.Dropout(0.3), torch.nn.Tanh(), torch.nn.Linear(32, 1)
        )
        groups = [
            {"params": list(self.model[0].parameters()), "weight_decay": 0.1},
            {"params": list(self.model[3].parameters()), "weight_decay": 0.0, "lr": 3e-3},
        ]
        self.optimizer = {
            "adamw": lambda: torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95)),
            "amsgrad": lambda: torch.optim.Adam(groups, lr=1e-3, amsgrad=True),
            "sgd": lambda: torch.optim.SGD(groups, lr=1e-2, momentum=0.9, nesterov=True),
            "adafactor": lambda: torch.optim.Adafactor(groups, lr=1e-2),
            "tensor-lr": lambda: torch.optim.AdamW(
                self.model.parameters(), lr=torch.tensor(1e-3), foreach=False
            ),
        }[kind]()
        self.step, self.losses = 0, []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            scale = 1.0 + random.random() + float(np.random.rand())
            x = torch.randn(16, 8) * scale
            loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"] * 0.97
            self.step += 1
            self.losses.append(loss.item())

    def save(self, folder: Path) -> Path:
        return cp.save(
            folder,
            self.step,
            self.model.state_dict(),
            {"losses": self.losses},
            optimizer=cp.flatten_optimizer(self.optimizer),
            rng=cp.rng_state(),
        )

    def restore(self, folder: Path) -> None:
        found = cp.latest(folder).checkpoint
        self.model.load_state_dict(found.adapter)
        cp.restore_optimizer(self.optimizer, found.optimizer.tensors, found.optimizer.meta)
        cp.set_rng_state(found.rng.tensors, found.rng.meta)
        self.step, self.losses = found.step, list(found.state["losses"])


@pytest.mark.parametrize("kind", ["adamw", "amsgrad", "sgd", "adafactor", "tensor-lr"])
def test_ten_steps_and_ten_after_a_resume_are_twenty_to_the_bit(tmp_path: Path, kind: str) -> None:
    whole = Trainer(kind)
    whole.run(20)
    first = Trainer(kind)
    first.run(10)
    first.save(tmp_path)
    torch.randn(1000), random.random(), np.random.rand(50)
    second = Trainer(kind)
    second.run(3)
    second.restore(tmp_path)
    second.run(10)
    assert second.losses == whole.losses
    assert same(second.model.state_dict(), whole.model.state_dict())
    left, right = cp.flatten_optimizer(second.optimizer), cp.flatten_optimizer(whole.optimizer)
    assert same(left.tensors, right.tensors) and left.meta == right.meta


@pytest.mark.slow
def test_a_kill_9_between_steps_gives_the_same_curve(tmp_path: Path) -> None:
    body = """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[2])
        from test_job_checkpoints import Trainer, cp
        folder, trainer = Path(sys.argv[1]), Trainer("adamw")
        if cp.checkpoints(folder):
            trainer.restore(folder)
        while trainer.step < 30:
            trainer.run(1)
            trainer.save(folder)
            cp.keep_last(folder, 2)
            print(trainer.step, flush=True)
    """
    whole = Trainer("adamw")
    whole.run(30)
    for kill in (True, False):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(body), str(tmp_path / "job"), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if kill and line == b"11\n":
                break
        if kill:
            time.sleep(random.Random(5).uniform(0.0, 0.02))
            process.send_signal(signal.SIGKILL)
        process.communicate()
    found = cp.latest(tmp_path / "job")
    assert found.problems == [] and found.checkpoint.step == 30
    assert found.checkpoint.state["losses"] == whole.losses
    assert same(found.checkpoint.adapter, whole.model.state_dict())
    assert len(cp.checkpoints(tmp_path / "job")) == 2


def test_a_state_for_another_optimizer_is_refused_and_changes_nothing() -> None:
    trainer = Trainer("adamw")
    trainer.run(2)
    flat = cp.flatten_optimizer(trainer.optimizer)
    before = cp.flatten_optimizer(trainer.optimizer).tensors
    other = torch.optim.AdamW(torch.nn.Linear(3, 3).parameters())
    for optimizer, told in (
        (torch.optim.SGD(torch.nn.Linear(8, 32).parameters(), lr=1.0), "optimizer AdamW"),
        (other, "2 parameter groups"),
    ):
        with pytest.raises(NonRetriableError, match=told):
            cp.restore_optimizer(optimizer, flat.tensors, flat.meta)
    same_groups = torch.optim.AdamW([{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2)]}])
    with pytest.raises(NonRetriableError, match="other shapes"):
        cp.restore_optimizer(same_groups, flat.tensors, flat.meta)
    short = {k: v for k, v in flat.tensors.items() if not k.endswith("exp_avg")}
    with pytest.raises(NonRetriableError, match="lacks the optimizer's tensor"):
        cp.restore_optimizer(trainer.optimizer, short, flat.meta)
    assert same(before, cp.flatten_optimizer(trainer.optimizer).tensors)


def test_a_state_that_cannot_be_held_is_named() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    optimizer.state[weight]["odd"] = object()
    with pytest.raises(NonRetriableError, match=r"state\.0\.odd is a object"):
        cp.flatten_optimizer(optimizer)


NUMBERS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
NESTED = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
    ),
    max_leaves=8,
)


@given(NESTED)
def test_any_state_of_numbers_comes_back_as_it_was(value: object) -> None:
    packed = json.loads(json.dumps(cp._pack(value, "x", {}), allow_nan=False))
    assert repr(cp._unpack(packed, {}, "cpu")) == repr(value)


def test_nested_tensors_come_back_too() -> None:
    tensors: dict[str, torch.Tensor] = {}
    value = {"history": [torch.arange(3), (torch.tensor(1.5), 2)], 7: "x"}
    packed = json.loads(json.dumps(cp._pack(value, "state.0", tensors)))
    back = cp._unpack(packed, tensors, "cpu")
    assert torch.equal(back["history"][0], torch.arange(3)) and back[7] == "x"
    assert back["history"][1][0].item() == 1.5 and back["history"][1][1] == 2


def test_random_numbers_go_on_where_they_were() -> None:
    random.gauss(0, 1), np.random.randn()  # both keep a second number back
    flat = cp.rng_state()
    assert all(t.dtype == torch.uint8 for t in flat.tensors.values())
    meta = json.loads(json.dumps(flat.meta))

    def draw() -> tuple[object, ...]:
        return random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.randn(3).tolist()

    first = draw()
    cp.set_rng_state(flat.tensors, meta)
    assert draw() == first
    with pytest.raises(NonRetriableError, match="random states"):
        cp.set_rng_state({}, meta)


# -- on disk ----------------------------------------------------------------------------------------


def test_what_is_saved_is_read_back_private_and_without_pickle(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = cp.save(tmp_path / "job", 120, small(), {"epoch": 1.5, "seen": [1, 2]}, rng=cp.rng_state())
    finally:
        os.umask(old)
    assert path.name == "step-000120"
    assert sorted(p.name for p in path.iterdir()) == ["adapter.safetensors", "rng.safetensors", "state.json"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "job").stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.iterdir()} == {0o600}
    found = cp.load(path)
    assert (found.step, found.state, found.optimizer) == (120, {"epoch": 1.5, "seen": [1, 2]}, None)
    assert same(found.adapter, small())
    state = json.loads((path / "state.json").read_text())
    assert state["sha256"]["adapter.safetensors"] == cp.file_hash(path / "adapter.safetensors")


def test_tensors_that_share_memory_or_are_views_can_be_saved(tmp_path: Path) -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": weight, "b": weight, "t": weight.t(), "row": weight[1], "none": torch.zeros(0, 4)}
    tensors["one"] = torch.nn.Parameter(torch.tensor(2.0))
    found = cp.load(cp.save(tmp_path, 1, tensors, {})).adapter
    assert all(torch.equal(found[k], tensors[k].detach()) for k in tensors)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: (p / "adapter.safetensors").unlink(),
        lambda p: (p / "state.json").unlink(),
        lambda p: (p / "state.json").write_text("{"),
        lambda p: (p / "state.json").write_text("[]"),
        lambda p: (p / "state.json").write_bytes(b"\xff\xfe"),
        lambda p: (p / "state.json").write_text((p / "state.json").read_text().replace('"epoch"', '"epock"')),
        lambda p: (p / "adapter.safetensors").write_bytes((p / "adapter.safetensors").read_bytes()[:-1]),
        lambda p: (p / "adapter.safetensors").write_bytes(
            (p / "adapter.safetensors").read_bytes()[:-1] + b"\x7f"
        ),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path, damage) -> None:
    cp.save(tmp_path, 10, small(1), {"epoch": 1})
    newest = cp.save(tmp_path, 20, small(2), {"epoch": 2})
    damage(newest)
    found = cp.latest(tmp_path)
    assert found.checkpoint.step == 10 and same(found.checkpoint.adapter, small(1))
    assert len(found.problems) == 1
    assert "step-000020" in found.problems[0] and "\n" not in found.problems[0]
    with pytest.raises(NonRetriableError, match="step-000020"):
        cp.load(newest)


def test_a_checkpoint_of_another_format_says_so(tmp_path: Path) -> None:
    path = cp.save(tmp_path, 10, small(), {})
    body = json.loads((path / "state.json").read_text()) | {"format": 9}
    del body["self"]
    (path / "state.json").write_text(json.dumps(body | {"self": cp._body_hash(body)}))
    with pytest.raises(NonRetriableError, match="format: 9 is not known here"):
        cp.load(path)


def test_none_intact_is_none(tmp_path: Path) -> None:
    assert cp.latest(tmp_path / "none") == cp.Latest(None, [])
    (tmp_path / "step-000010").mkdir()
    found = cp.latest(tmp_path)
    assert found.checkpoint is None and len(found.problems) == 1


def test_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    cp.save(tmp_path, 999_999, small(), {})
    cp.save(tmp_path, 1_000_000, small(), {})
    cp.save(tmp_path, 5, small(), {})
    for name in ("step-12", "step-000012.tmp", ".step-000013.x.tmp", "best"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000014").write_text("a file")
    assert [p.name for p in cp.checkpoints(tmp_path)] == ["step-000005", "step-999999", "step-1000000"]


def test_the_same_step_is_replaced_and_leftovers_are_swept(tmp_path: Path) -> None:
    cp.save(tmp_path, 10, small(1), {"try": 1})
    (tmp_path / ".step-000011.abc.tmp").mkdir()
    cp.save(tmp_path, 10, small(2), {"try": 2})
    found = cp.load(tmp_path / "step-000010")
    assert found.state == {"try": 2} and same(found.adapter, small(2))
    assert [p.name for p in tmp_path.iterdir()] == ["step-000010"]


def test_keep_last_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    paths = [cp.save(tmp_path, n, {}, {}) for n in (10, 20, 30, 40, 50)]
    assert cp.keep_last(tmp_path, 2, protect=[paths[0]]) == paths[1:3]
    assert cp.checkpoints(tmp_path) == [paths[0], *paths[3:]]
    assert cp.keep_last(tmp_path, 9) == []
    with pytest.raises(ValueError, match="at least one"):
        cp.keep_last(tmp_path, 0)


@pytest.mark.parametrize("state", [{"x": float("nan")}, {"x": object()}, {"x": torch.zeros(1)}])
def test_a_state_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path, state: dict) -> None:
    with pytest.raises(NonRetriableError, match="not JSON"):
        cp.save(tmp_path / "job", 1, small(), state)
    assert not (tmp_path / "job").exists()


# -- a full disk ------------------------------------------------------------------------------------


def test_no_room_is_seen_before_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cp.save(tmp_path, 10, small(), {})
    monkeypatch.setattr(cp.shutil, "disk_usage", lambda _p: type("U", (), {"free": 100})())
    with pytest.raises(FinetuneError, match="no space for a checkpoint"):
        cp.save(tmp_path, 20, small(), {})
    assert cp.latest(tmp_path).checkpoint.step == 10
    assert [p.name for p in tmp_path.iterdir()] == ["step-000010"]


def test_a_disk_that_fills_up_while_writing_leaves_the_last_good_one(tmp_path: Path) -> None:
    body = """
        import resource, signal, sys, torch
        from pathlib import Path
        from gt_plugins.errors import FinetuneError
        from gt_plugins.training import checkpoints as cp
        folder = Path(sys.argv[1])
        cp.save(folder, 10, {"w": torch.ones(100)}, {})
        cp.save(folder, 20, {"w": torch.ones(100)}, {})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        for step in (20, 30):
            try:
                cp.save(folder, step, {"w": torch.ones(100_000)}, {})
            except FinetuneError as error:
                print(error)
        found = cp.latest(folder)
        print(found.checkpoint.step, found.checkpoint.adapter["w"].shape[0], found.problems)
        print(sorted(p.name for p in folder.iterdir()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert all("the disk is full" in line and "are intact" in line for line in lines[:2])
    assert lines[2:] == ["20 100 []", "['step-000010', 'step-000020']"]


# -- headers ----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_a_header_or_a_clear_refusal(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("h") / "x.safetensors"
    path.write_bytes(data)
    try:
        read_header(path)
    except NonRetriableError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@settings(deadline=None)
@given(st.integers(0, 400))
def test_a_cut_file_is_torn(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("h") / "adapter.safetensors"
    cp.save_tensors(path, small())
    whole = path.read_bytes()
    assert read_header(path).tensors["a.lora_A.weight"].shape == (4, 16)
    path.write_bytes(whole[: cut % len(whole)])
    with pytest.raises(TornFile):
        read_header(path)


# -- gathering --------------------------------------------------------------------------------------


def test_replicas_are_averaged_by_their_tokens(tmp_path: Path) -> None:
    a, b = {"w": torch.full((2, 2), 1.0)}, {"w": torch.full((2, 2), 4.0)}
    parts = [save_replica(tmp_path / "a", a, 300), save_replica(tmp_path / "b", b, 100)]
    parts.append(save_replica(tmp_path / "idle", {"w": torch.full((2, 2), 99.0)}, 0))
    assert torch.equal(gather(parts).tensors["w"], torch.full((2, 2), 1.75))
    assert stat.S_IMODE(parts[0].stat().st_mode) == 0o600


@given(
    seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=4),
    tokens=st.lists(st.integers(1, 10**9), min_size=4, max_size=4),
)
@settings(deadline=None, max_examples=25)
def test_an_average_lies_between_and_does_not_depend_on_the_order(
    tmp_path_factory: pytest.TempPathFactory, seeds: list[int], tokens: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("g")
    parts = [save_replica(folder / f"{i}", small(s), tokens[i]) for i, s in enumerate(seeds)]
    merged, back = gather(parts).tensors, gather(parts[::-1]).tensors
    for name in merged:
        stack = torch.stack([small(s)[name].double() for s in seeds])
        assert merged[name].dtype == small()[name].dtype
        slack = 1e-2 * stack.abs().max()
        assert (merged[name].double() >= stack.min(0).values - slack).all()
        assert (merged[name].double() <= stack.max(0).values + slack).all()
        torch.testing.assert_close(merged[name], back[name])
    if len(seeds) == 1:
        assert same(merged, small(seeds[0]))


@given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=4), dim=st.sampled_from([0, 1, -1]))
@settings(deadline=None, max_examples=25)
def test_shards_are_put_together_as_they_were_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], dim: int
) -> None:
    folder = tmp_path_factory.mktemp("g")
    size = (sum(rows), 3) if dim == 0 else (3, sum(rows))
    whole = torch.randn(size)
    parts = []
    for index, piece in enumerate(torch.split(whole, rows, dim)):
        tensors = {"w": piece} | ({"only.here": torch.tensor([1.0])} if index == 0 else {})
        parts.append(save_shard(folder / f"s{index}", tensors, index, len(rows), {"w": dim}))
    random.Random(0).shuffle(parts)
    merged = gather(parts).tensors
    assert torch.equal(merged["w"], whole) and merged["only.here"].item() == 1.0


def test_parts_that_are_wrong_are_refused_by_name(tmp_path: Path) -> None:
    good = save_replica(tmp_path / "good", {"w": torch.ones(2, 2)}, 1)

    def refused(told: str, *parts: Path) -> None:
        with pytest.raises(NonRetriableError, match=told):
            gather_with_retries(parts, sleep=lambda _s: pytest.fail("waited"))

    refused("no parts")
    refused(
        "nan: w: 1 of 4 numbers are not finite",
        good,
        save_replica(tmp_path / "nan", {"w": torch.tensor([[1.0, float("nan")], [1, 1]])}, 1),
    )
    refused(r"wide: w: shape \(4, 1\)", good, save_replica(tmp_path / "wide", {"w": torch.ones(4, 1)}, 1))
    refused(
        "more: v: not in every",
        good,
        save_replica(tmp_path / "more", {"w": torch.ones(2, 2), "v": torch.ones(1)}, 1),
    )
    refused("no replica has learned", save_replica(tmp_path / "zero", {"w": torch.ones(1)}, 0))
    shard = save_shard(tmp_path / "shard", {"w": torch.ones(2, 2)}, 0, 1)
    refused("cannot be gathered into one", good, shard)
    refused("is there twice", shard, shard)
    odd = save_shard(tmp_path / "odd", {"w": torch.ones(2, 3)}, 1, 2)
    refused("different cuts", shard, odd)
    fits = save_shard(tmp_path / "fits", {"w": torch.ones(2, 2)}, 0, 2)
    refused("do not fit along 0", fits, odd)
    plain = tmp_path / "plain"
    cp.save_tensors(plain, small())
    refused("does not say which part", plain)
    (tmp_path / "text").write_text("not an adapter, and long enough")
    refused("not a safetensors file", tmp_path / "text")


def test_a_part_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    paths = [tmp_path / f"s{i}" for i in range(2)]
    save_shard(paths[0], {"w": torch.zeros(1, 2)}, 0, 2)
    late = save_shard(tmp_path / "late", {"w": torch.ones(1, 2)}, 1, 2).read_bytes()
    waits: list[float] = []

    def writer(seconds: float) -> None:
        waits.append(seconds)
        paths[1].write_bytes(late[: len(late) * len(waits) // 3])

    with pytest.raises(RetriableError, match="not there yet"):
        gather(paths)
    with pytest.raises(RetriableError, match="shard 1 of 2"):
        gather(paths[:1])
    merged = gather_with_retries(paths, sleep=writer).tensors
    assert len(waits) == 3 and torch.equal(merged["w"], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


def test_a_part_that_never_comes_is_told_in_the_end(tmp_path: Path) -> None:
    waits: list[float] = []
    with pytest.raises(RetriableError, match="not there yet"):
        gather_with_retries([tmp_path / "none"], 3, sleep=waits.append)
    assert len(waits) == 2
