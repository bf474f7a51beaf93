"""The swarm without a network: who takes which batches, what may be averaged, run files, keys and lists."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.errors import NonRetriableError, UserError
from gt_plugins.training.loader import Batch
from gt_plugins.training.swarm.deal import agreed, deal, lower_median, together_of, usual_rows
from gt_plugins.training.swarm.runfile import RunFile, SwarmSettings, load_run

ROOT = Path(__file__).parent.parent
few = settings(max_examples=60, deadline=None)
names = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)
SEED = "/ip4/203.0.113.7/tcp/49200/p2p/QmX11afH1pk5LLM5ZVCkcfJywmYpwxhHhPkoTfJPnXBAtc"


# -- the deal ---------------------------------------------------------------------------------------


plans = st.lists(st.integers(1, 7), min_size=1, max_size=60)


def plan_of(sizes: list[int]) -> list[Batch]:
    """Batches of so many rows; no row is in two of them."""
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return [Batch(0, tuple(range(s, s + size))) for s, size in zip(starts, sizes, strict=True)]


@few
@given(names, plans, st.integers(0, 50), st.integers(1, 30))
def test_every_row_that_is_left_is_dealt_to_one_peer(
    peers: list[str], sizes: list[int], done: int, sync: int
) -> None:
    plan, total = plan_of(sizes), len(sizes)
    done, rows = min(done, total), usual_rows(plan)
    dealt = {p: deal(plan, done, total, rows, peers, p, sync) for p in peers}
    assert sorted(r for d in dealt.values() for b in d.steps for r in b.rows) == list(
        range(sum(sizes[:done]), sum(sizes))
    )
    (then,) = {d.done_then for d in dealt.values()}
    in_round = sorted(r for d in dealt.values() for b in d.steps[: d.stretch] for r in b.rows)
    assert in_round == list(range(sum(sizes[:done]), sum(sizes[:then]))), "a round has no gaps"


@few
@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 40))
def test_a_swarm_makes_as_many_steps_as_one_peer_where_batches_have_rows_for_all(
    count: int, rows: int, total: int
) -> None:
    peers = [f"p{n}" for n in range(count)]
    dealt = [deal(plan_of([rows] * total), 0, total, rows, peers, p, 10**6) for p in peers]
    together = together_of(rows, count)
    assert (together == 1) is (rows >= count)
    assert max(len(d.steps) for d in dealt) == math.ceil(total / together)
    sizes = [len(b.rows) for d in dealt for b in d.steps[:-1]]
    assert not sizes or max(sizes) - min(sizes) <= 1, "hands are alike"
    assert all(d.rate_factor**2 == pytest.approx(count) for d in dealt)


@few
@given(names, plans, st.integers(1, 9))
def test_a_plan_comes_to_its_end_whoever_dies(peers: list[str], sizes: list[int], sync: int) -> None:
    plan, total, done, there = plan_of(sizes), len(sizes), 0, list(peers)
    for _ in range(total + 1):
        if done >= total:
            break
        done = deal(plan, done, total, usual_rows(plan), there, there[0], sync).done_then
        there = there[:-1] or there
    assert done == total


@few
@given(st.integers(0, 999), st.lists(st.integers(-(10**12), 10**12), max_size=6), st.integers(0, 50))
def test_nobody_moves_our_place_further_than_a_round(mine: int, others: list[int], most: int) -> None:
    assert abs(agreed(mine, others, most) - mine) <= most
    assert agreed(mine, [mine] * 3 + [10**9], most) == mine


def test_of_two_the_smaller_is_the_median() -> None:
    assert [lower_median(v) for v in ([3], [9, 1], [5, 9, 1])] == [3, 1, 5]


# -- the guard --------------------------------------------------------------------------------------


def offer(*values: float, tokens: int = 100) -> Any:
    import torch

    from gt_plugins.training.swarm.guard import Offer

    whole = torch.tensor(values, dtype=torch.float32)
    return Offer({"a": whole[:2], "b": whole[2:]}, tokens)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_an_adapter_that_is_not_finite_is_dropped(wrong: float) -> None:
    from gt_plugins.training.swarm.guard import sift

    found = sift({"good": offer(1, 2, 3, 4), "bad": offer(1, 2, 3, wrong)}, None, 5.0)
    assert set(found.kept) == {"good"}
    assert found.dropped == {"bad": "b: 1 of 2 numbers are not finite"}


@few
@given(st.integers(1, 6), st.floats(6.0, 1e6), st.integers(0, 99))
def test_an_absurd_norm_is_dropped_and_sane_ones_are_not(count: int, factor: float, seed: int) -> None:
    import torch

    from gt_plugins.training.swarm.guard import Offer, sift

    dice = torch.Generator().manual_seed(seed)
    sane = {f"p{i}": Offer({"w": 1 + 0.3 * torch.rand(40, generator=dice)}, 10) for i in range(count)}
    huge = Offer({"w": 1.3 * factor * torch.ones(40)}, 10)
    found = sift({**sane, "huge": huge}, None, 5.0)
    assert set(found.kept) == set(sane) and "its weights" in found.dropped["huge"]


def test_a_jump_away_from_the_last_average_is_dropped_though_its_norm_is_sane() -> None:
    from gt_plugins.training.swarm.guard import sift

    reference = offer(10, 10, 10, 10).tensors
    sane = {name: offer(10, 10, 10, 10 + step) for name, step in (("a", 0.1), ("b", 0.12), ("c", 0.09))}
    found = sift({**sane, "turned": offer(-10, -10, -10, -10)}, reference, 5.0)
    assert set(found.kept) == {"a", "b", "c"}
    assert "its change since the last averaging" in found.dropped["turned"]


def test_the_larger_of_two_cannot_excuse_itself() -> None:
    from gt_plugins.training.swarm.guard import sift

    assert set(sift({"a": offer(1, 1, 1, 1), "b": offer(900, 1, 1, 1)}, None, 5.0).kept) == {"a"}


@few
@given(st.lists(st.integers(-5, 10**18), min_size=1, max_size=7))
def test_no_peer_counts_for_more_than_twice_the_median(tokens: list[int]) -> None:
    from gt_plugins.training.swarm.guard import weights

    shares = weights({str(i): n for i, n in enumerate(tokens)})
    assert math.isclose(sum(shares.values()), 1.0)
    middle = lower_median([max(0, n) for n in tokens])
    if middle:
        honest = shares[str(next(i for i, n in enumerate(tokens) if max(0, n) == middle))]
        assert max(shares.values()) <= 2 * honest * (1 + 1e-9)


def test_the_mean_is_by_tokens_and_the_same_in_any_order() -> None:
    import torch

    from gt_plugins.training.swarm.guard import mean

    offers = {"a": offer(0, 0, 0, 3, tokens=100), "b": offer(3, 3, 3, 3, tokens=200)}
    there = mean(offers)
    assert torch.allclose(there["a"], torch.tensor([2.0, 2.0]))
    again = mean(dict(reversed(offers.items())))
    assert all(torch.equal(there[n], again[n]) for n in there)


# -- blobs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("compression", "error", "share"), [("none", 0.0, 1.0), ("float16", 2e-3, 0.6)])
def test_an_adapter_comes_back_from_its_blob(compression: str, error: float, share: float) -> None:
    import torch

    from gt_plugins.training.swarm.exchange import pack, unpack

    adapter = {"x.lora_A": torch.randn(8, 64), "x.lora_B": torch.randn(64, 8)}
    blob = pack(adapter, compression)
    back = unpack(blob, adapter)
    assert all(float((back[n] - adapter[n]).abs().max()) <= error for n in adapter)
    assert len(blob) <= share * len(pack(adapter, "none"))


def test_a_strangers_blob_is_refused_by_name() -> None:
    import torch

    from gt_plugins.training.swarm.exchange import pack, unpack

    like = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    for blob, words in (
        (b"", "not an adapter"),
        (b"\x80\x04.", "not an adapter"),
        (pack({"a": torch.zeros(2, 3)}, "none"), "other tensors than ours: 'b'"),
        (pack({"a": torch.zeros(3, 2), "b": torch.zeros(4)}, "none"), r"a: shape \(3, 2\) where ours is"),
        (pack(like, "float16").replace(b"float32", b"sigmoid"), "type 'sigmoid'"),
    ):
        with pytest.raises(NonRetriableError, match=words):
            unpack(blob, like)


@few
@given(st.binary(max_size=80), st.integers(0, 400))
def test_damaged_bytes_are_refused_or_read_but_never_break_anything(junk: bytes, at: int) -> None:
    import torch

    from gt_plugins.training.swarm.exchange import pack, unpack

    like = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    whole = pack(like, "none" if at % 2 else "float16")
    damaged = whole[: at % len(whole)] + junk + whole[at % len(whole) + len(junk) :]
    try:
        back = unpack(damaged, like)
    except NonRetriableError:
        return
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in like.items()}


# -- run files --------------------------------------------------------------------------------------


def write_run(folder: Path, **values: Any) -> Path:
    path = folder / "run.json"
    path.write_text(json.dumps({"run_config": "tiny", "auth_server": "", "seeds": []} | values))
    return path


def test_a_run_of_node0_is_read_as_it_is(tmp_path: Path) -> None:
    path = write_run(tmp_path, run_config="llama_8B_C", auth_server="https://auth.example.org", seeds=[SEED])
    run = load_run(path)
    assert run == RunFile(path, "llama_8B_C", "https://auth.example.org", (SEED,))
    assert run.asks(local=False) and not run.asks(local=True)
    assert run.peers_to_ask(local=False) == (SEED,) and run.peers_to_ask(local=True) == ()


def test_what_is_ours_is_read_too(tmp_path: Path) -> None:
    path = write_run(
        tmp_path,
        auth_server="https://auth.example.org",
        bypass_auth=True,
        local_seed_peers=[SEED],
        local_stage="head-0",
        swarm={"sync_steps": 7, "averaging_timeout": 9, "compression": "none"},
    )
    run = load_run(path)
    assert not run.asks(local=False) and run.peers_to_ask(local=True) == (SEED,)
    assert run.local_stage == "head-0"
    assert run.swarm == SwarmSettings(sync_steps=7, averaging_timeout=9.0, compression="none")
    assert run.recipe is None
    (tmp_path / "tiny.toml").write_text("rank = 4\n")
    assert run.recipe == tmp_path / "tiny.toml"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"run_config": ""}, "run_config: '' is no name"),
        ({"run_config": "../x"}, "run_config: '../x' is no name"),
        ({"seeds": "one"}, "seeds: not a list of strings"),
        ({"seeds": ["203.0.113.7:49200"]}, "is not a peer's address"),
        ({"seeds": ["/ip4/203.0.113.7/tcp/49200"]}, "is not a peer's address"),
        ({"auth_server": "auth.example.org"}, "auth_server: not an http"),
        ({"bypass_auth": "yes"}, "bypass_auth: not true or false"),
        ({"local_stage": "a/b"}, "local_stage: 'a/b' is no name"),
        ({"seed": []}, "seed: not a key of a run; known: run_config"),
        ({"swarm": {"sync": 2}}, "swarm: sync: not a key"),
        ({"swarm": {"sync_steps": 2.5}}, "swarm: sync_steps: must be int"),
        ({"swarm": {"sync_steps": 0}}, "swarm: sync_steps: 0 is out of range"),
        ({"swarm": {"lifetime": -1}}, "lifetime: -1 is out of range"),
        ({"swarm": {"compression": "zip"}}, "compression: 'zip'; one of none, float16"),
        ({"swarm": {"norm_factor": 1}}, "norm_factor: 1.0 is not above 1"),
        ({"swarm": []}, "swarm: not an object"),
    ],
)
def test_a_wrong_key_of_a_run_is_named(tmp_path: Path, values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_run(write_run(tmp_path, **values))
    assert words in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"run\.json: not "):
        load_run(path)
    with pytest.raises(UserError, match="not there"):
        load_run(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["run.json", "run.self-hosted.json"])
def test_the_shipped_runs_name_no_public_peer(name: str) -> None:
    run = load_run(ROOT / name)
    assert run.bypass_auth and not run.auth_server
    assert all("/ip4/203.0.113." in seed for seed in run.seeds), "an address of the documentation's own range"


# -- keys and lists ---------------------------------------------------------------------------------


def test_a_key_is_made_once_private_and_names_its_peer(tmp_path: Path) -> None:
    from hivemind.p2p import PeerID

    from gt_plugins.training.swarm.identity import load_identity, peer_id_of

    path = tmp_path / "keys" / "private.key"
    made = load_identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_identity(path).peer_id == made.peer_id == str(PeerID.from_identity(path.read_bytes()))
    assert peer_id_of(made.public_key) == made.peer_id
    path.chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        load_identity(path)
    path.chmod(0o600)
    path.write_bytes(b"no key")
    with pytest.raises(UserError, match="not a peer's RSA key"):
        load_identity(path)


def test_a_list_takes_keys_and_peer_ids(tmp_path: Path) -> None:
    from gt_plugins.training.swarm.identity import allow_list, load_identity

    one, two = (load_identity(tmp_path / n) for n in "ab")
    assert allow_list([one.peer_id, f"{two.public_key} friend@example.org"], "run") == {
        one.peer_id,
        two.peer_id,
    }
    for wrong in ("", "ssh-rsa AAAA", "ssh-ed25519 AAAA", "Qm-short"):
        with pytest.raises(UserError, match="run: allowed_peers"):
            allow_list([wrong], "run")
