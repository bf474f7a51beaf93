"""The real gt's primes: what of the town's state reaches a tuned role, and what a stock one is given."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from gt_plugins.prime.ask import place_of
from gt_plugins.prime.budget import TINY_TOKENS
from gt_plugins.prime.facts import recall, unknown_form
from gt_plugins.prime.slim import MAX_CHARS, slim
from gt_plugins.sim.live_town import LiveTown, Ran
from gt_plugins.town.events import session_starts

pytestmark = pytest.mark.live
ROLES = ("mayor", "deacon", "boot", "witness", "refinery", "crew", "polecat")
PATROLS = ("deacon", "witness", "refinery")
POLICY = "Never restart the billing rig on Mondays."
NOTE = "The staging database moves to db-2 on Friday."
MEMORY = "previews run on port 24100"


@pytest.fixture(scope="module")
def lived_in(real_town: LiveTown) -> LiveTown:
    """The town with an operator's policy, notes, a memory, a mail for the deacon, and a polecat at work."""
    root = real_town.town.root
    (root / "directives").mkdir()
    for role in ROLES:
        (root / "directives" / f"{role}.md").write_text(f"{POLICY}\n")
    (root / "CONTEXT.md").write_text(f"# Town notes\n\n{NOTE}\n")
    stub = real_town.base / "stub" / "claude"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\necho '❯ '\nexec sleep 600\n")
    stub.chmod(0o755)
    settings = {"type": "town-settings", "version": 1, "agents": {"stub": {"provider": "claude"}}}
    settings["agents"]["stub"].update(command=str(stub), args=[], tmux={"ready_delay_ms": 100})
    (root / "settings/config.json").write_text(json.dumps(settings))
    as_mayor = {"GT_ROLE": "mayor"}
    real_town.run("gt", "remember", MEMORY, cwd=root / "mayor", more=as_mayor).checked()
    mail = ("gt", "mail", "send", "deacon/", "-s", "4 patrols done", "-m", "Watch rust.")
    real_town.run(*mail, cwd=root / "mayor", more=as_mayor).checked()
    made = real_town.run("bd", "create", "Fix the parser", "--json", cwd=root / "demo").checked()
    bead = json.loads(made.out)["id"]
    real_town.run("gt", "sling", bead, "demo", "--no-boot", "--agent", "stub", more=as_mayor).checked()
    return real_town


def stock_prime(live: LiveTown, role: str, session: str) -> str:
    """The real ``gt prime --hook`` of a role, as a session's hook runs it."""
    return prime(live, role, session, "gt").checked().out


def prime(live: LiveTown, role: str, session: str, *command: str) -> Ran:
    place = place_of(live.town, role)
    more = {"GT_ROLE": place.gt_role, "PWD": str(place.folder)}
    if place.identity.rig:
        more["GT_RIG"] = place.identity.rig
    if place.identity.name:
        more[f"GT_{role.upper()}"] = place.identity.name
    payload = {"session_id": session, "source": "startup", "hook_event_name": "SessionStart"}
    return live.run(*command, "prime", "--hook", cwd=place.folder, more=more, stdin=json.dumps(payload))


def state_of(live: LiveTown, role: str) -> list[str]:
    """What is true of a role's work by the town's own books, not by its prime."""
    root = live.town.root
    known = [POLICY, NOTE, MEMORY] if role in ("mayor", "deacon", "boot") else [POLICY, NOTE]
    if role in PATROLS:
        assignee = "deacon" if role == "deacon" else f"demo/{role}"
        listed = live.run("bd", "list", "--json", "--status=hooked", f"--assignee={assignee}", cwd=root)
        ids = [b["id"] for b in json.loads(listed.checked().out)]
        assert len(ids) == 1
        known += ids
    if role == "deacon":
        inbox = live.run("gt", "mail", "inbox", "--json", cwd=root / "deacon", more={"GT_ROLE": "deacon"})
        known += [m["id"] for m in json.loads(inbox.checked().out)] + ["4 patrols done"]
    if role == "polecat":
        beads = json.loads(live.run("bd", "list", "--json", "--all", cwd=root / "demo").checked().out)
        known += [b["id"] for b in beads if b["title"] == "Fix the parser"] + ["mol-polecat-work"]
    return known


@pytest.mark.parametrize("role", ROLES)
def test_what_is_true_of_a_role_is_in_its_slim_prime(lived_in: LiveTown, role: str):
    stock = stock_prime(lived_in, role, f"3d58e141-{role}")
    assert unknown_form(stock, role) == []
    for tokens in (350, 3000):
        made = slim(stock, role, tokens=tokens, rules="- In doubt escalate.")
        assert made.tokens <= tokens and len(made.text) <= MAX_CHARS
        told = recall(stock, made.text)
        assert told.missing == () and told.facts >= 4, (tokens, made.text)
        for fact in (
            f"3d58e141-{role}",
            place_of(lived_in.town, role).gt_role.replace("deacon/boot", "boot"),
        ):
            assert fact in made.text
        for fact in state_of(lived_in, role):
            assert fact in made.text, (role, tokens, fact)
    if role in (*PATROLS, "polecat"):
        assert told.prohibitions_kept >= told.prohibitions * 0.9
    assert "{{" not in made.text and "3307" not in made.text and "bd show hq-wisp" not in made.text
    assert (len(stock) > MAX_CHARS) == (role != "boot"), "sizes that docs/prime.md tells"


def test_a_deployed_role_gets_it_and_the_session_is_recorded(lived_in: LiveTown):
    ours = (sys.executable, "-m", "gt_plugins.cli.gt")
    folder = lived_in.town.finetune_dir / "deacon"
    folder.mkdir(parents=True)
    (folder / "role.json").write_text('{"model": "gt-ft-deacon", "version": "v1", "base": "tiny"}')
    done = prime(lived_in, "deacon", "5e55-deployed", *ours).checked()
    assert done.out.startswith('<gt-prime role="deacon">\nGAS TOWN role:deacon session:5e55-deployed\n')
    assert len(done.out) <= TINY_TOKENS * 3.5 + 1
    assert "5e55-deployed" in json.dumps([str(s) for s in session_starts(lived_in.town.events_file)])
    (folder / "off").touch()
    stock = prime(lived_in, "deacon", "5e55-off", *ours).checked().out
    again = stock_prime(lived_in, "deacon", "5e55-off")
    assert without_pid(stock) == without_pid(again) and len(stock) > MAX_CHARS


def without_pid(text: str) -> str:
    return re.sub(r"pid:\d+", "pid:", text)


def test_other_primes_are_untouched(lived_in: LiveTown):
    ours = (sys.executable, "-m", "gt_plugins.cli.gt")
    folder = lived_in.town.root / "deacon"
    for flags in (["--state"], ["--state", "--json"], ["--help"]):
        real = lived_in.run("gt", "prime", *flags, cwd=folder, more={"GT_ROLE": "deacon"})
        through = lived_in.run(*ours, "prime", *flags, cwd=folder, more={"GT_ROLE": "deacon"})
        assert (through.out, through.err, through.code) == (real.out, real.err, real.code)


def test_a_sling_runs_through_with_its_exit_code(lived_in: LiveTown):
    ours = (sys.executable, "-m", "gt_plugins.cli.gt", "sling")
    for args in (["dm-nope", "demo", "--dry-run"], ["--help"]):
        real = lived_in.run("gt", "sling", *args, more={"GT_ROLE": "mayor"})
        through = lived_in.run(*ours, *args, more={"GT_ROLE": "mayor"})
        assert through.code == real.code and through.out == real.out
    assert not list(Path(lived_in.town.root).rglob("*sling*cache*"))
