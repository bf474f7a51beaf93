"""The shipped fences admit single commands and no options; the teacher keeps to them; bad files are named."""

from __future__ import annotations

import random
import re
import shlex
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.errors import UserError
from gt_plugins.roles.profile import FILES, SHIPPED, has_profile, load_profile
from gt_plugins.sim.situations import POLICIES, situations
from gt_plugins.sim.teacher import decision_command, patrol_steps
from gt_plugins.town.roles import ROLES as TOWN_ROLES

ROLES = ("deacon", "boot", "witness", "crew", "polecat")
SHELL = set(';|&$`<>\n\r\0\\"*?[]{}~#!=%^')
RULES = [(role, rule) for role in ROLES for rule in load_profile(role).allow]
rules = pytest.mark.parametrize(("role", "rule"), RULES, ids=lambda v: v if isinstance(v, str) else v.name)
few = settings(max_examples=30, deadline=None)


def test_a_profile_is_shipped_for_these_roles() -> None:
    assert {r for r in TOWN_ROLES if has_profile(r)} == set(ROLES)
    assert {p.parent.name for p in SHIPPED.glob("*/fence.toml")} == set(ROLES)


# -- the fence --------------------------------------------------------------------------------------


@rules
@few
@given(st.data())
def test_what_a_rule_admits_is_one_plain_command(role: str, rule: object, data: st.DataObject) -> None:
    command = data.draw(st.from_regex(rule.pattern, fullmatch=True))  # type: ignore[attr-defined]
    assert load_profile(role).allows(command)
    assert not set(command) & SHELL
    words = shlex.split(command)
    assert words[0] in {"gt", "bd", "git", "ls", "cat", "head", "wc"}
    assert command.count("'") in (0, 2) and command.isascii() and command == command.strip()


@rules
@few
@given(st.data())
def test_what_a_rule_leaves_open_is_no_option(role: str, rule: object, data: st.DataObject) -> None:
    pattern = rule.pattern  # type: ignore[attr-defined]
    command = data.draw(st.from_regex(pattern, fullmatch=True))
    written = set(re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*", pattern))
    assert {w for w in shlex.split(command) if w.startswith("-")} <= written


@pytest.mark.parametrize("role", ROLES)
@few
@given(st.data())
def test_no_fence_admits_a_command_with_a_shells_characters(role: str, data: st.DataObject) -> None:
    profile = load_profile(role)
    rule = data.draw(st.sampled_from(profile.allow))
    command = data.draw(st.from_regex(rule.pattern, fullmatch=True))
    place = data.draw(st.integers(0, len(command)))
    breaking = data.draw(st.sampled_from(sorted(";|&$`<>\n\r\0")))
    assert not profile.allows(command[:place] + breaking + command[place:])


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "command",
    [
        "",
        " gt hook",
        "gt hook ",
        "gt hook\n",
        "gt hook; rm -rf /",
        "gt hook && ls",
        "rm -rf /",
        "gt escalate 'a' -s high -s low",
        "gt escalate 'it''s' -s high",
        "gt escalate '' -s high",
        "gt escalate '--help' -s high",
        "gt nudge --all 'x'",
        "gt polecat nuke demo --all",
        "gt polecat nuke --force",
        "gt polecat nuke demo",
        "gt down",
        "cat reports/../../etc/passwd.txt",
        "cat /etc/passwd",
        "ls -la",
        "bd sql 'drop'",
        "env",
        "ｇt hook",
    ],
)
def test_no_role_may_run(role: str, command: str) -> None:
    assert not load_profile(role).allows(command)


@pytest.mark.parametrize("role", ROLES)
def test_there_is_always_a_way_out(role: str) -> None:
    profile = load_profile(role)
    assert "escalate" in [rule.name for rule in profile.allow]
    for severity in ("low", "medium", "high", "critical"):
        assert profile.allows(f"gt escalate 'nux is stuck, idle 50m' -s {severity}")
    action = profile.action_of("gt escalate 'nux' -s high")
    assert action is not None and action.startswith("escalate")


@pytest.mark.parametrize("role", ["polecat", "crew"])
@few
@given(
    words=st.lists(st.text("ab0_-./ ", max_size=12), max_size=3),
    reader=st.sampled_from(["ls", "cat", "head", "wc"]),
)
def test_a_path_never_leads_out(role: str, words: list[str], reader: str) -> None:
    command = " ".join([reader, *words])
    if load_profile(role).allows(command):
        for word in command.split(" ")[1:]:
            assert word and not word.startswith(("/", ".", "-"))
            assert not {"", ".", ".."} & set(word.split("/"))


@pytest.mark.parametrize("role", ["polecat", "crew"])
def test_ordinary_reading_is_admitted(role: str) -> None:
    profile = load_profile(role)
    for command in (
        "ls",
        "cat README.md",
        "head src/a_b/c-d.py",
        "wc a.txt b/c.txt",
        "git status",
        "bd show dm-4kx1",
    ):
        assert profile.allows(command), command
    for path in ("..", "../x", "a/..", "a/../b", "a..b", "a//b", ".git/config", "a/.ssh/id", "-n", "./a"):
        assert not profile.allows(f"cat {path}"), path


# -- the teacher ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", POLICIES)
@few
@given(seed=st.integers(0, 10**6))
def test_every_command_of_the_teacher_is_admitted_and_is_its_action(role: str, seed: int) -> None:
    profile = load_profile(role)
    found = situations(role, 12, random.Random(seed))
    assert {s.action for s in found} == set(POLICIES[role].actions)
    for situation in found:
        command = decision_command(role, situation)
        assert profile.allows(command), command
        assert profile.action_of(command) == situation.action
    looks = [s.command for s in patrol_steps(role, found) if s.command and not s.text]
    assert len(looks) == 14 and all(profile.allows(c) and profile.action_of(c) is None for c in looks)


@pytest.mark.parametrize("role", POLICIES)
def test_a_roles_actions_are_those_of_its_policy_and_of_its_profile(role: str) -> None:
    assert load_profile(role).action_names == POLICIES[role].actions


def test_a_command_with_space_around_it_is_its_action() -> None:
    profile = load_profile("boot")
    assert profile.action_of("  gt nudge deacon --mode immediate 'up'\n") == "wake"
    assert profile.action_of("gt nudge deacon 'go on'") == "nudge"
    assert profile.action_of("echo gt deacon start") is None


# -- bad files --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED / "deacon", tmp_path / "role"))


def test_a_folder_of_ones_own_is_read(folder: Path) -> None:
    assert load_profile("deacon", folder).allow == load_profile("deacon").allow
    (folder / "fence.toml").write_text('[[allow]]\nname = "escalate"\npattern = "gt escalate [a-z]+"\n')
    profile = load_profile("deacon", folder)
    assert profile.tools == ("Bash",) and profile.allows("gt escalate now") and not profile.allows("gt hook")


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        load_profile("deacon", folder)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, "deacon" if name == "fence.toml" else name)


ESCALATE = '[[allow]]\nname = "escalate"\npattern = "e"\n'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("fence.toml", "tools = 1 2\n", ("fence.toml", "line 1")),
        ("fence.toml", 'tools = ["Bash"]\n', ("fence.toml: allow", "escalate")),
        ("fence.toml", f'tools = "Bash"\n{ESCALATE}', ("fence.toml: tools",)),
        ("fence.toml", f"tools = [1]\n{ESCALATE}", ("fence.toml: tools",)),
        ("fence.toml", 'allow = "gt .*"\n', ("fence.toml: allow", "[[allow]]")),
        ("fence.toml", f'{ESCALATE}[[allow]]\nname = "x"\n', ("fence.toml: allow[1]", "no pattern")),
        ("fence.toml", f'{ESCALATE}[[allow]]\npattern = "("\n', ("fence.toml: allow[1].pattern", "regular")),
        ("fence.toml", f"{ESCALATE}[[allow]]\npattern = 7\n", ("fence.toml: allow[1].pattern", "string")),
        ("fence.toml", 'allow = ["gt hook"]\n', ("fence.toml: allow[0]",)),
        ("actions.toml", "[actions\n", ("actions.toml", "line 1")),
        ("actions.toml", 'actions = "nudge"\n', ("actions.toml: actions",)),
        ("actions.toml", '[actions]\nnudge = "gt nudge"\n', ("actions.toml: actions.nudge", "commands")),
        ("actions.toml", '[actions.nudge]\ncommands = ["["]\n', ("actions.toml: actions.nudge.commands",)),
        ("actions.toml", "[actions.nudge]\ncommands = [3]\n", ("actions.toml: actions.nudge.commands",)),
        ("system.txt", b"\xff\xfe", ("system.txt", "UTF-8")),
        ("rules.md", b"\xff", ("rules.md", "UTF-8")),
    ],
)
def test_a_bad_file_is_named_with_its_key(
    folder: Path, name: str, content: str | bytes, words: tuple[str, ...]
) -> None:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    refused(folder, *words)


def test_an_unknown_role_is_named_with_those_there_are() -> None:
    with pytest.raises(
        UserError, match=r"no profile for role 'refinery'.*boot, crew, deacon, polecat, witness"
    ):
        load_profile("refinery")
