"""The allow-list at the endpoint: translation of its patterns, and the second look at what was generated."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gt_plugins.errors import UserError
from gt_plugins.roles.profile import AllowRule, Profile, load_profile
from gt_plugins.serving.fence import BREAKING, DROPPED_NOTE, check, command_pattern, translated

ROLES = ("deacon", "boot", "witness", "crew", "polecat")
BASH = frozenset({"Bash"})


def call(command: object, name: str = "Bash", **more: object) -> dict:
    return {"type": "tool_use", "name": name, "input": {"command": command, **more}}


@pytest.mark.parametrize("role", ROLES)
def test_every_shipped_fence_can_be_a_grammar(role: str) -> None:
    assert command_pattern(load_profile(role))


@pytest.mark.parametrize(
    "pattern",
    [
        "a.*",
        '[^"]+',
        "[^;]x",
        "(?i)a",
        "(?=a)b",
        r"(a)\1",
        "x;y",
        "a|b&c",
        "[ -~]+",
        "x$y",
        "a\nb",
        r"[\s\S]",
        r"a\b",
        "(?>a)b",
        "(?i:a)",
        "(",
    ],
)
def test_a_pattern_that_means_two_things_or_two_commands_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError):
        translated(pattern)


def test_a_refused_rule_is_named_with_its_file(tmp_path) -> None:
    rules = (AllowRule("escalate", "gt escalate"), AllowRule("any", "gt .*"))
    profile = Profile("deacon", tmp_path, "", ("Bash",), (), rules, "")
    with pytest.raises(UserError, match=r"fence\.toml: allow rule 'any': .*name those that it needs"):
        command_pattern(profile)


@pytest.mark.parametrize(
    ("pattern", "rust"),
    [
        ("^ab$", "ab"),
        (r"\d{2}", "(?:[0-9]){2,2}"),
        (r"a\.b", r"a\x{2e}b"),
        ("x?", "(?:x){0,1}"),
        ("x+?", "(?:x){1,}"),
        ("(?P<n>ab)c", "(?:ab)c"),
        ("[a-z-]", r"[a-z\x{2d}]"),
        ("ü", r"\x{fc}"),
    ],
)
def test_translation(pattern: str, rust: str) -> None:
    assert translated(pattern) == rust


SEEN_RULES = (
    AllowRule("escalate", "gt escalate"),
    AllowRule("nudge", "gt nudge (?P<seen>[a-z]+/[a-z]+) 'go on'"),
)


def test_a_seen_group_holds_only_what_was_seen(tmp_path) -> None:
    profile = Profile("deacon", tmp_path, "", ("Bash",), (), SEEN_RULES, "")
    seen = frozenset({"demo/nux", "clean", "demo/ash"})
    pattern = re.compile(re.sub(r"\\x\{(..)\}", r"\\x\1", command_pattern(profile, seen)))
    for command, right in (("demo/nux", True), ("demo/ash", True), ("demo/ace", False), ("clean", False)):
        command = f"gt nudge {command} 'go on'"
        assert (pattern.fullmatch(command) is not None) == right
        assert (check([call(command)], profile, BASH, seen).refused == 0) == right
    assert profile.allows("gt nudge demo/ace 'go on'"), "the rule itself names nobody"


def test_a_rule_that_nothing_seen_fits_is_left_out(tmp_path) -> None:
    profile = Profile("deacon", tmp_path, "", ("Bash",), (), SEEN_RULES, "")
    assert command_pattern(profile, frozenset({"clean"})) == f"(?:{translated('gt escalate')})"


@given(st.text(alphabet="abz09 .,:/_+-'\"\\ü", max_size=12))
@settings(deadline=None)
def test_a_translated_literal_matches_itself_and_nothing_else(text: str) -> None:
    """The output is also Python's syntax but for the escapes, so Python can judge it."""
    rust = translated(re.escape(text))
    python = re.sub(r"\\x\{([0-9a-f]+)\}", lambda m: re.escape(chr(int(m.group(1), 16))), rust)
    assert re.fullmatch(python, text)
    assert not re.fullmatch(python, text + "x")


def test_allowed_calls_and_text_pass_unchanged() -> None:
    blocks = [{"type": "text", "text": "all is well"}, call("gt hook"), call("gt escalate 'help' -s high")]
    checked = check(blocks, load_profile("deacon"), BASH)
    assert list(checked.blocks) == blocks and checked.refused == 0


@pytest.mark.parametrize(
    "block",
    [
        call("rm -rf /"),
        call("gt hook; rm -rf /"),
        call("gt hook\n"),
        call("gt hook", name="Write"),
        call("gt hook", run_in_background=True),
        call(["gt hook"]),
        call(None),
        {"type": "tool_use", "name": "Bash", "input": {}},
        {"type": "tool_use", "name": "Bash", "input": "gt hook"},
    ],
)
def test_a_call_outside_the_fence_becomes_a_line_of_text(block: dict) -> None:
    checked = check([block], load_profile("deacon"), BASH)
    assert checked.blocks == ({"type": "text", "text": DROPPED_NOTE},) and checked.refused == 1


def test_bash_that_was_not_offered_is_refused() -> None:
    assert check([call("gt hook")], load_profile("deacon"), frozenset({"Read"})).refused == 1


@given(st.sampled_from(sorted(BREAKING)), st.sampled_from(ROLES))
@settings(deadline=None)
def test_no_shipped_rule_admits_a_second_command(char: str, role: str) -> None:
    profile = load_profile(role)
    assert check([call(f"gt hook{char}ls")], profile, BASH).refused == 1
    assert check([call(f"gt escalate 'a{char}b' -s high")], profile, BASH).refused == 1
