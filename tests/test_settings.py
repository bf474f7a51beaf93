"""``settings/finetune.toml`` and ``mayor/rigs.json``: what is broken in them is named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from gt_plugins.corpus import capture
from gt_plugins.errors import UserError
from gt_plugins.settings import Settings, load_settings, outcome_windows, resource, update_settings
from gt_plugins.settings_keys import PRIVACY, TABLES, slip
from gt_plugins.town.root import Town, read_json

SLIPS = [
    ('[consent]\ngranted = "yes"', "consent.granted: 'yes' is neither true nor false"),
    (
        '[consent]\ngrantd = true\nby = "Ann"',
        "consent.grantd: not a key of this table; known: granted, by, at",
    ),
    ("consent = true", "consent: not a table; write it as [consent]"),
    ('[capture]\nexclude_rigs = "private"', "capture.exclude_rigs: not a list of strings"),
    ('[capture]\nexclude_rig = ["private"]', "capture.exclude_rig: not a key of this table"),
    ('[captures]\nexclude_rigs = ["private"]', "captures: no such table; do you mean [capture]?"),
    ("[scrub]\ndeny = [1]", "scrub.deny: not a list of strings"),
    ("[gate]\nthreshhold = 0.99", "gate.threshhold: not a key of this table; known: threshold, roles"),
    ("[gate]\nthreshold = 90", "gate.threshold: 90 is no fraction; use 0.0 to 1.0"),
    ("[gate]\nthreshold = nan", "gate.threshold: nan is no fraction"),
    ("[gate]\nthreshold = true", "gate.threshold: True is no fraction"),
    ("[gate]\nroles = 0.9", "gate.roles: not a table; write it as [gate.roles]"),
    ("[prime]\ntokens = inf", "prime.tokens: inf is no number of tokens"),
    ("[prime]\ntokens = -5", "prime.tokens: -5 is no number of tokens"),
    ("[outcomes]\nwindow_minutes = 0", "outcomes.window_minutes: 0 is no such time"),
    ('[rollout]\noff = "deacon"', "rollout.off: not a list of strings"),
    ('[gate]\nthreshold = "high', "not TOML (Illegal character"),
    ("a = " + "1" * 5000, "not TOML (Exceeds the limit"),
    ("a = " + "[" * 5000, "not TOML (maximum recursion depth"),
]


def told(town: Town) -> str:
    with pytest.raises(UserError) as error:
        load_settings(town)
    message = str(error.value)
    assert message.startswith(f"{town.settings_file}: ") and "\n" not in message
    return message


@pytest.mark.parametrize(("text", "problem"), SLIPS, ids=[problem[:40] for _, problem in SLIPS])
def test_a_slip_is_named(text: str, problem: str, town: Town) -> None:
    town.settings_file.write_text(text + "\n")
    assert problem in told(town)


def test_other_encodings_are_named(town: Town) -> None:
    town.settings_file.write_bytes(b"\xff\xfe[\x00g\x00]\x00")
    assert "not UTF-8 text" in told(town)


def test_tables_of_third_parties_are_theirs(town: Town) -> None:
    town.settings_file.write_text("[weather]\nplace = 1\n[gate.roles]\ndeacon = 0.95\n")
    assert load_settings(town).raw["weather"] == {"place": 1}


def test_every_value_comes_through(town: Town) -> None:
    town.settings_file.write_text(
        '[consent]\ngranted = true\nby = "Ann"\nat = 2026-11-23T08:00:00Z\n[capture]\nexclude_rigs = ["a"]\n'
        '[scrub]\ndeny = ["b"]\nallow = ["c"]\n[gate]\nthreshold = 1\n[prime]\ntokens = 9\n'
        '[outcomes]\nwindow_minutes = 2\nsettle_hours = 0.5\n[rollout]\noff = ["boot"]\nhold = "wait"\n'
    )
    found = load_settings(town)
    assert (found.exclude_rigs, found.scrub_deny, found.scrub_allow) == (("a",), ("b",), ("c",))
    assert (found.threshold, found.prime_tokens, found.roles_off) == (1.0, 9, ("boot",))
    assert found.consent.granted and found.consent.by == "Ann" and found.consent.at.startswith("2026-11-23")
    assert outcome_windows(town) == (120.0, 1800.0)
    town.settings_file.unlink()
    assert load_settings(town) == Settings(town.settings_file)


def test_nothing_is_written_into_broken_settings(town: Town) -> None:
    text = '[capture]\nexclude_rig = ["private"]\n'
    town.settings_file.write_text(text)
    with pytest.raises(UserError, match="exclude_rig:"):
        update_settings(town, "consent", granted=True)
    assert town.settings_file.read_text() == text


def test_no_writer_takes_back_what_another_wrote(town: Town) -> None:
    """Many at once, each with a key of its own: all are there in the end."""
    from gt_plugins.attach.starter import write_settings

    values = [("consent", "by", "Ann"), ("rollout", "hold", "wait"), ("gate", "threshold", 0.5)]
    values += [("prime", "tokens", 7), ("outcomes", "settle_hours", 3), ("capture", "exclude_rigs", ["a"])]
    for _ in range(5):
        town.settings_file.unlink(missing_ok=True)
        calls = [partial(update_settings, town, table, **{key: value}) for table, key, value in values]
        with ThreadPoolExecutor(8) as pool:
            done = [pool.submit(call) for call in (*calls, partial(write_settings, town))]
            for one in done:
                one.result()
        raw = load_settings(town).raw
        assert [raw[table][key] for table, key, _ in values] == [value for *_, value in values]


# -- the hook's own reading -----------------------------------------------------------------------


PRIVATE = [(text, problem) for text, problem in SLIPS if problem.startswith(("consent", "capture"))]


@pytest.mark.parametrize(("text", "problem"), PRIVATE)
def test_the_hook_guesses_nothing(text: str, problem: str, town: Town) -> None:
    """A slip alone grants nothing, and beside a plain consent it is said what it is."""
    where = str(town.root), str(town.root / "deacon")
    town.settings_file.write_text(text + "\n")
    try:
        assert not capture.may_capture(*where)
    except capture.BadSettings as error:
        assert str(error).removeprefix("settings/finetune.toml: ") in problem
    if "consent" not in text:
        town.settings_file.write_text(f'[consent]\ngranted = true\nby = "Ann"\n{text}\n')
        with pytest.raises(capture.BadSettings) as said:
            capture.may_capture(*where)
        assert str(said.value).removeprefix("settings/finetune.toml: ") in problem


def test_what_the_hook_takes_for_plain_is_sound(town: Town) -> None:
    """The quick look says yes only to what the settings' own reading accepts as granted."""
    heads = [f"[{name}]" for name in TABLES] + ["[captures]", "[other]", "[ consent ]", ""]
    keys = ["granted = true", 'by = "Ann"', "exclude_rig = []", "exclude_rigs = []", "granted = 1", "# x", ""]
    yes = 0
    for head in heads:
        for key in keys:
            for text in (f"[consent]\ngranted = true\n{head}\n{key}\n", f"{head}\n{key}\n"):
                if not capture.plainly_granted(text.encode()):
                    continue
                yes += 1
                town.settings_file.write_text(text)
                if head.strip("[]") in PRIVACY or not head:
                    assert load_settings(town).consent.granted, text
    assert yes > 20


def test_the_written_starter_is_plain(town: Town) -> None:
    from gt_plugins.attach.starter import write_settings

    write_settings(town)
    update_settings(town, "consent", granted=True, by="Ann", at="2026-11-23T08:00:00Z")
    assert capture.plainly_granted(town.settings_file.read_bytes())


def test_the_keys_are_those_of_the_starter() -> None:
    from gt_plugins.attach.starter import TEXT

    for table in TEXT.split("\n[")[1:]:
        name, _, body = table.partition("]")
        keys = [line[2:].partition(" = ")[0] for line in body.splitlines() if " = " in line]
        assert set(keys) <= set(TABLES[name])
    assert slip({}) is None and resource("hooks").is_dir()


# -- rigs.json ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"rigs": {"demo": {}},', "line 1: not JSON"),
        ('{"rigs": ["demo"]}', "rigs: not a JSON object"),
        ('{"rigs": "demo"}', "rigs: not a JSON object"),
        ('["demo"]', "not a JSON object"),
        ('{"rigs": {"../other": {}}}', "rigs.../other: no name of a folder in the town"),
        ('{"rigs": {"": {}}}', "rigs.: no name of a folder"),
        ('{"rigs": {"a\\u0000b": {}}}', "no name of a folder"),
        ('{"rigs": {"\\ud800": {}}}', "no name of a folder"),
        ('{"version": ' + "1" * 5000 + "}", "not JSON (Exceeds the limit"),
        ('{"rigs": ' + "[" * 100_000, "not JSON (maximum recursion depth"),
    ],
    ids=range(10),
)
def test_a_broken_list_of_rigs(text: str, problem: str, town: Town) -> None:
    path = town.root / "mayor/rigs.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        town.rigs()
    assert str(error.value).startswith(f"{path}: ") and problem in str(error.value)


def test_no_rigs(town: Town) -> None:
    path = town.root / "mayor/rigs.json"
    for text in ("{}", '{"rigs": null}', '{"rigs": {}}'):
        path.write_text(text)
        assert town.rigs() == {}
    path.unlink()
    assert town.rigs() == {}


def test_json_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b"{\xff}")
    with pytest.raises(UserError, match="not UTF-8"):
        read_json(path)
