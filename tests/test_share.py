"""Sharing within a rig: only who opted in and signed, nothing unpacked, all or none, scrubbed again."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from corpus_helpers import raw_bytes
from dataset_helpers import PATROL, session
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gt_plugins.corpus import consent
from gt_plugins.corpus.assemble import Wanted, build_dataset
from gt_plugins.corpus.purge import purge
from gt_plugins.corpus.share import bundle as bundles
from gt_plugins.corpus.share.bundle import Manifest, read_bundle, sessions_in, write_bundle
from gt_plugins.corpus.share.exchange import export, import_bundle, session_from
from gt_plugins.corpus.share.keys import is_signed, key_path, public_key, sign
from gt_plugins.corpus.share.settings import sharing
from gt_plugins.corpus.store import Store
from gt_plugins.errors import FinetuneError, UserError
from gt_plugins.town.root import Town
from gt_plugins.transcripts.model import Session

pytest.importorskip("cryptography")
SECRET = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"


def town_at(root: Path, trust: str = "", opt_in: bool = True) -> Town:
    (root / "mayor").mkdir(parents=True)
    (root / "mayor/town.json").write_text('{"type": "town"}')
    (root / "mayor/rigs.json").write_text('{"rigs": {"demo": {}, "other": {}}}')
    rules = root / "demo/settings/finetune.toml"
    rules.parent.mkdir(parents=True)
    rules.write_text(f"[share]\nopt_in = {str(opt_in).lower()}\ntrust = [{trust}]\n")
    town = Town(root)
    consent.grant(town, root.name.capitalize())
    return town


def keep(town: Town, found: Session, outcome: str = "merged") -> None:
    with Store(town) as store:
        store.add_session(
            found, policy="old", consent="Ann at 2026", source_hash=found.id, outcome=outcome, file="x"
        )


@pytest.fixture
def ann(tmp_path: Path) -> Town:
    """A town with two sessions of the rig, one of them tuned, one of another rig."""
    town = town_at(tmp_path / "ann")
    keep(town, replace(session(*PATROL, name="s1"), rig="demo"))
    keep(town, replace(session(("", f"echo {SECRET}", "x"), name="s2"), rig="demo"))
    keep(town, replace(session(*PATROL, name="s3"), rig="demo", models=("gt-ft-deacon",)))
    keep(town, replace(session(*PATROL, name="s4"), rig="other"))
    return town


@pytest.fixture
def ben(tmp_path: Path, ann: Town) -> Town:
    return town_at(tmp_path / "ben", f'"Ann {public_key(ann)}"')


@pytest.fixture
def sent(ann: Town, tmp_path: Path) -> Path:
    export(ann, "demo", tmp_path / "demo.share")
    return tmp_path / "demo.share"


def test_a_session_goes_from_town_to_town(ann: Town, ben: Town, tmp_path: Path) -> None:
    out = export(ann, "demo", tmp_path / "b.share")
    assert (out.sessions, out.skipped, out.sender) == (2, {"of a tuned model": 1}, "Ann")
    assert stat.S_IMODE((tmp_path / "b.share").stat().st_mode) == 0o600
    before = import_bundle(ben, tmp_path / "b.share", dry_run=True)
    with Store(ben) as store:
        assert before.sessions == 2 and store.session_ids() == []
        assert before.came == {"new": 2, "updated": 0, "unchanged": 0} and not store.query(
            "SELECT * FROM shared"
        )
    done = import_bundle(ben, tmp_path / "b.share")
    assert (done.sessions, done.skipped, done.sender, done.bundle) == (2, {}, "Ann", out.bundle)
    with Store(ann) as mine, Store(ben) as theirs:
        sent, got = mine.session("s1"), theirs.session("s1")
        assert sent is not None and got is not None
        assert got.session == sent.session and got.outcome == "merged"
        assert got.consent.startswith("shared by Ann (") and got.consent.endswith("): Ann at 2026")
        assert got.policy not in ("", "old")
        assert theirs.search("slit")


def test_what_was_stored_under_a_looser_policy_is_scrubbed_on_the_way_out_and_in(
    ann: Town, ben: Town, sent: Path
) -> None:
    with zipfile.ZipFile(sent) as archive:
        assert not [n for n in archive.namelist() if SECRET.encode() in archive.read(n)]
    (ben.root / "settings").mkdir(exist_ok=True)
    with (ben.root / "settings/finetune.toml").open("a") as handle:
        handle.write('[scrub]\ndeny = ["slit"]\n')
    done = import_bundle(ben, sent)
    assert done.redactions["denied"] >= 2
    assert b"slit" not in raw_bytes(ben.corpus_dir)
    with Store(ben) as store:
        assert store.search("slit") == []


def test_importing_twice_changes_nothing_and_nothing_goes_back(ann: Town, ben: Town, sent: Path) -> None:
    import_bundle(ben, sent)
    with Store(ben) as store:
        rows = store.session_rows()
    again = import_bundle(ben, sent)
    assert again.came == {"new": 0, "updated": 0, "unchanged": 2}
    with Store(ben) as store:
        assert store.session_rows() == rows
    with pytest.raises(FinetuneError, match="no session of rig demo to share: 2 came from others"):
        export(ben, "demo", sent.parent / "back.share")
    assert not (sent.parent / "back.share").exists()


def test_what_was_captured_or_purged_here_stays_as_it_is(ben: Town, sent: Path) -> None:
    keep(ben, session(*PATROL[:2], name="s1"), "rejected")
    keep(ben, session(*PATROL[:2], name="s2"))
    purge(ben, "s2")
    assert import_bundle(ben, sent).skipped == {"was captured here": 1, "was purged here": 1}
    with Store(ben) as store:
        own = store.session("s1")
        assert own is not None and own.outcome == "rejected" and len(own.session.turns) == 6


def test_shared_sessions_train_by_the_senders_labels(ann: Town, ben: Town, tmp_path: Path) -> None:
    with Store(ann) as store:
        store.label("s1", "good", "it went well")
    export(ann, "demo", tmp_path / "b.share")
    import_bundle(ben, tmp_path / "b.share")
    made = build_dataset(ben, "deacon", tmp_path / "data", "tiny", Wanted())
    assert {e.session for e in (*made.train, *made.heldout)} >= {"s1"}
    assert any("shared by Ann" in said for said in made.card["sources"]["consent"])
    with Store(ben) as store:
        store.label("s1", "bad", "no")
    made = build_dataset(ben, "deacon", tmp_path / "data", "tiny", Wanted())
    assert "s1" not in {e.session for e in (*made.train, *made.heldout)}


def test_a_purge_names_the_bundles_and_takes_what_came_in(ann: Town, ben: Town, sent: Path) -> None:
    import_bundle(ben, sent)
    assert purge(ann, "s1").bundles == (read_bundle(sent).id,)
    purge(ben, "s1")
    with Store(ben) as store:
        assert store.session_ids() == ["s2"]
        assert [r["session_id"] for r in store.query("SELECT session_id FROM shared")] == ["s2"]
    assert import_bundle(ben, sent).skipped == {"was purged here": 1}


# -- who may -----------------------------------------------------------------------------------------


def test_both_sides_must_have_opted_in(tmp_path: Path, ann: Town, sent: Path) -> None:
    shy = town_at(tmp_path / "shy", f'"Ann {public_key(ann)}"', opt_in=False)
    for act in (lambda: import_bundle(shy, sent), lambda: export(shy, "demo", tmp_path / "x.share")):
        with pytest.raises(UserError, match=r"demo/settings/finetune\.toml: share\.opt_in: .*write opt_in"):
            act()
    with pytest.raises(UserError, match="no rig 'nowhere'; there are: demo, other"):
        export(shy, "nowhere", tmp_path / "x.share")


def test_without_consent_nothing_goes_either_way(ann: Town, ben: Town, sent: Path, tmp_path: Path) -> None:
    for town in (ann, ben):
        consent.revoke(town, "Ann")
    with pytest.raises(UserError, match="needs consent"):
        export(ann, "demo", tmp_path / "x.share")
    with pytest.raises(UserError, match="needs consent"):
        import_bundle(ben, sent)


def test_a_rig_that_is_not_captured_is_not_shared(ann: Town, tmp_path: Path) -> None:
    with (ann.root / "settings/finetune.toml").open("a") as handle:
        handle.write('[capture]\nexclude_rigs = ["demo"]\n')
    with pytest.raises(UserError, match="exclude_rigs has 'demo'"):
        export(ann, "demo", tmp_path / "x.share")


def test_only_who_is_trusted_is_let_in(tmp_path: Path, ann: Town, sent: Path) -> None:
    eve = town_at(tmp_path / "eve")
    with pytest.raises(UserError, match=r"whom rig demo does not trust; ask them for `gt corpus share key`"):
        import_bundle(eve, sent)
    ben = town_at(tmp_path / "ben2", f'"Eve {public_key(eve)}"')
    keep(eve, replace(session(*PATROL, name="e1"), rig="demo"))
    export(eve, "demo", tmp_path / "eve.share")
    assert import_bundle(ben, tmp_path / "eve.share").sender == "Eve"
    forged = repacked(tmp_path / "eve.share", manifest=lambda m: m | {"key": public_key(ann)})
    trusting = town_at(tmp_path / "ben3", f'"Ann {public_key(ann)}"')
    with pytest.raises(UserError, match="its signature is wrong"):
        import_bundle(trusting, forged)


def test_the_key_is_private_and_stays(ann: Town) -> None:
    first = public_key(ann)
    assert stat.S_IMODE(key_path(ann).stat().st_mode) == 0o600 and public_key(ann) == first
    signature = sign(ann, b"x")
    assert is_signed(first, b"x", signature) and not is_signed(first, b"y", signature)
    assert not is_signed("ed25519:AAAA", b"x", signature) and not is_signed("rsa:x", b"x", signature)
    key_path(ann).write_text("nonsense")
    with pytest.raises(UserError, match="not a share key"):
        public_key(ann)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("share = 1", "share: not a table"),
        ('[share]\nopt_in = "yes"', "share.opt_in: neither true nor false"),
        ('[share]\ntrust = "Ann"', "share.trust: not a list of strings"),
        ('[share]\ntrust = ["Ann ed25519:short"]', r"share.trust\[0\]: no name with a public key"),
        ("[share", "not TOML"),
    ],
)
def test_broken_settings_are_named(ann: Town, text: str, told: str) -> None:
    path = ann.root / "demo/settings/finetune.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        sharing(ann, "demo")
    assert str(path) in str(caught.value)


# -- bundles from foreign hands ----------------------------------------------------------------------


def repacked(
    path: Path,
    change: Callable[[str, bytes], bytes] = lambda _name, data: data,
    manifest: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    extra: Callable[[zipfile.ZipFile], None] = lambda _archive: None,
) -> Path:
    """A bundle with something changed in it after it was signed."""
    made = path.with_name("changed.share")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name == bundles.MANIFEST and manifest is not None:
                data = json.dumps(manifest(json.loads(data))).encode()
            new.writestr(name, change(name, data))
        extra(new)
    return made


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("sessions/000009.json")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/passwd")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (lambda a: a.writestr("../../evil", "x"), "no name that a bundle has"),
        (lambda a: a.writestr("/etc/cron.d/evil", "x"), "no name that a bundle has"),
        (lambda a: a.writestr("sessions/../../evil.json", "x"), "no name that a bundle has"),
        (lambda a: a.writestr("sessions/000009.JSON", "x"), "no name that a bundle has"),
        (lambda a: a.writestr("sessions\\000009.json", "x"), "no name that a bundle has"),
        (lambda a: a.writestr("sessions/", ""), "no name that a bundle has"),
        (lambda a: a.writestr("sessions/000009.json", "{}"), "is not what its manifest lists"),
        (link, "not a plain file"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_odd_members_are_refused(what: Any, told: str, ben: Town, sent: Path, tmp_path: Path) -> None:
    before = {p for p in tmp_path.rglob("*")}
    with pytest.raises(UserError, match=told):
        import_bundle(ben, repacked(sent, extra=what))
    assert {p for p in tmp_path.rglob("*")} - before == {tmp_path / "changed.share"}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice_is_refused(ben: Town, sent: Path) -> None:
    twice = repacked(sent, extra=lambda a: a.writestr("sessions/000000.json", "{}"))
    with pytest.raises(UserError, match=r"sessions/000000\.json: is there twice"):
        import_bundle(ben, twice)


def test_a_bomb_is_refused_before_it_is_unpacked(
    ben: Town, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = repacked(sent, extra=lambda a: a.writestr("sessions/000009.json", b"0" * (64 << 20)))
    monkeypatch.setattr(bundles, "MOST_BYTES", 32 << 20)
    with pytest.raises(UserError, match="unpacks to more than"):
        read_bundle(bomb)
    monkeypatch.setattr(bundles, "MOST_BYTES", 4 << 30)
    monkeypatch.setattr(bundles, "MOST_FILES", 1)
    with pytest.raises(UserError, match="has more than 1 members"):
        read_bundle(sent)


def test_one_changed_byte_stops_all_of_it(ben: Town, sent: Path) -> None:
    changed = repacked(sent, lambda n, d: d.replace(b"idle", b"busy") if n.startswith("sessions") else d)
    with pytest.raises(UserError, match=r"sessions/000000\.json: is not what was signed"):
        import_bundle(ben, changed)
    with Store(ben) as store:
        assert store.session_ids() == []


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_damage_is_said_in_one_line(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Bytes changed, cut off or put in anywhere: read as it was, or refused by a message, never a crash."""
    path = tmp_path_factory.mktemp("b") / "a.share"
    made = [{"n": n, "text": "x" * 50} for n in range(3)]
    write_bundle(path, made, Manifest("demo", "k", "Ann", "now", "p"), lambda told: b"s" * 64)
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1))
    match data.draw(st.sampled_from(["change", "cut", "insert"])):
        case "change":
            raw[at] ^= data.draw(st.integers(1, 255))
        case "cut":
            del raw[at:]
        case _:
            raw[at:at] = data.draw(st.binary(min_size=1, max_size=40))
    path.write_bytes(raw)
    try:
        found = read_bundle(path)
        assert list(sessions_in(found)) == made or found.signed != path.read_bytes()
    except FinetuneError as error:
        assert "\n" not in str(error) and str(path) in str(error)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.data(), json_values)
def test_a_session_is_one_or_is_refused(data: Any, value: Any) -> None:
    whole = json.loads(json.dumps(session(*PATROL).to_json()))
    spot = data.draw(st.sampled_from(["", *whole, "turn"]))
    if spot == "turn":
        turn = data.draw(st.sampled_from(whole["turns"]))
        turn[data.draw(st.sampled_from([*turn, "odd"]))] = value
    elif spot:
        whole[spot] = value
    else:
        whole = value
    try:
        found = session_from(whole)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert json.loads(json.dumps(found.to_json())) == whole | {
        "turns": json.loads(json.dumps(found.to_json()))["turns"]
    }
    assert all(isinstance(t.id, str) and isinstance(b, dict) for t in found.turns for b in t.blocks)


def test_a_signed_bundle_with_a_broken_session_brings_nothing_in(
    ann: Town, ben: Town, tmp_path: Path
) -> None:
    path = tmp_path / "b.share"
    good = {"session": session(*PATROL, name="g1").to_json(), "outcome": "merged"}
    bad = {"session": {"id": "g2", "turns": [{"role": "king"}]}, "outcome": "merged"}
    head = Manifest("demo", public_key(ann), "Ann", "now", "p", "v")
    write_bundle(path, [good, bad], head, lambda told: sign(ann, told))
    with pytest.raises(UserError, match=r"has not the form of one \(turns\[0\]: not a turn's role\)"):
        import_bundle(ben, path)
    with Store(ben) as store:
        assert store.session_ids() == []


def test_no_bundle_at_all(ben: Town, tmp_path: Path) -> None:
    for text, told in (("", "not a bundle"), ("PK\x05\x06" + "\0" * 18, "no signed manifest")):
        (tmp_path / "x").write_text(text)
        with pytest.raises(UserError, match=told):
            import_bundle(ben, tmp_path / "x")
    with pytest.raises(UserError, match="no such file"):
        import_bundle(ben, tmp_path / "none")


# -- commands ----------------------------------------------------------------------------------------


def run(town: Town, *words: str) -> tuple[int, str]:
    from gt_plugins.cli.corpus_share import app

    done = CliRunner().invoke(app, [*words, "--town", str(town.root)], env=dict(os.environ))
    return done.exit_code, done.output


def test_the_commands(ann: Town, ben: Town, tmp_path: Path) -> None:
    out = tmp_path / "b.share"
    assert run(ann, "key")[1].strip() == public_key(ann) == json.loads(run(ann, "key", "--json")[1])["key"]
    code, text = run(ann, "export", "--rig", "demo", "--out", str(out))
    assert code == 0 and "2 sessions of rig demo" in text and "left out: of a tuned model" in text
    code, text = run(ben, "import", str(out), "--dry-run")
    assert code == 0 and "2 sessions of rig demo would come in from Ann" in text
    done = json.loads(run(ben, "import", str(out), "--json")[1])
    assert done["sessions"] == 2 and done["sender"] == "Ann" and done["skipped"] == {}
    told = "no sessions of rig demo came in from Ann: 0 new, 0 updated, 2 unchanged\n"
    assert run(ben, "import", str(out))[1].startswith(told)
    with Store(ann) as store:
        store.label("s1", "bad", "no")
    assert run(ann, "export", "--rig", "demo", "--out", str(tmp_path / "c.share"))[0] == 0
    assert (
        "1 sessions of rig demo came in from Ann: 0 new, 1 updated, 1 unchanged\n"
        in run(ben, "import", str(tmp_path / "c.share"))[1]
    )
    assert run(ann, "export", "--rig", "demo", "--out", str(out))[0] == 1
