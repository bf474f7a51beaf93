"""Stock primes in the form that ``gt prime`` prints them, in words of our own."""

from __future__ import annotations

from collections.abc import Sequence

DOCTRINE = """
## ⚡ Theory of Operation: The Propulsion Principle

A town is a clockwork and you are one of its wheels. Wheels turn.

---

## 📜 The Capability Ledger

Whatever is done gets written down.

---
"""

TEMPLATES = {
    "deacon": """
## Your Role: DEACON (Patrol Executor)

You keep the town's watch.

## Working Directory

**IMPORTANT**: Always work from `/t/deacon/` directory.

## Startup Protocol: Propulsion

```bash
gt deacon heartbeat              # Step 1: Say that you live
gt hook                          # Step 2: Look at your hook
```

### Patrol Formula Discipline

**Steps you MUST NOT skip** (even in quiet hours):
- `first-step` — or it rots
- `second-step` — a stray server can take port 3307

## Inbox Hygiene

Use `gt mail inbox` and then clear it. **Dogs should NEVER receive mail from you.**

## Docked Rigs Are Off-Limits

You MUST NOT:

- Undock a docked rig (`gt rig undock`)
- Start agents on a docked rig

## ⚡ Command Quick-Reference

| Want to... | Correct command | Common mistake |
|------------|----------------|----------------|
| Start rig agents | `gt rig start <rig>` | ~~gt rig boot~~ (half a start) |

State directory: /t/deacon/
Mail identity: deacon/
Session: hq-deacon
""",
    "witness": """
## Your Role: WITNESS (Rig Manager for demo)

You look after polecats.

**What you never do:**
- Write code
- Close wisps of others

### Dolt Connectivity

Beads live in Dolt (port 3307). If `bd` hangs:
```bash
gt dolt status                    # Is it up
```
**Do NOT restart Dolt yourself.** Escalate: `gt escalate -s HIGH "Dolt: <symptom>"`

Rig: demo
Working directory: /t/demo/witness
Your mail address: demo/witness
""",
    "polecat": """
## Completion Protocol

**Polecats do NOT:**
- Push directly to main
- Wait after `gt done`

## Key Commands

- `gt done` — Hand the work in
- `bd show <id>` — Read a bead

Polecat: rust
Rig: demo
Working directory: /t/demo/polecats/rust/demo
""",
    "boot": """
## Working Directory

**IMPORTANT**: Always work from `/t/deacon/` directory.

### Step 2: Decide

| Deacon State | Action |
|--------------|--------|
| gone | START |

## Important Notes

- You live for one look
- When in doubt, do nothing
""",
}

PATROL_HEADS = {"deacon": "🔄 Patrol Status (Wisp-based)", "witness": "🦉 Witness Patrol Status"}
ACTORS = {"deacon": "deacon", "witness": "demo/witness", "polecat": "demo/polecats/rust", "boot": "boot"}

BEADS = """
# Gas Town Worker Context

## Key Commands

- `bd ready` - What can be worked on

## Core Rules
- **Prohibited**: Do NOT use TodoWrite for task tracking
"""

STARTUP = """
---

**STARTUP PROTOCOL**: You are the Deacon. Please:
1. Run `gt prime` (everything)
2. Announce: "Here."
3. Signal awake: `gt deacon heartbeat "up"`
4. Check mail: `gt mail inbox`
5. Check for attached patrol: `gt hook`
"""


def patrol(role: str, wisp: str = "hq-wisp-aa1", *, fresh: bool = False, steps: int = 3) -> str:
    """The patrol section: hooked already, or made by this very prime."""
    name = f"mol-{role}-patrol"
    status = (
        f"Status: **No active patrol** - creating {name}...\n\n✓ Created and hooked patrol wisp: {wisp}\n"
        if fresh
        else f"Status: **Patrol Active**\nPatrol: {wisp}  {name} [hooked]\n\n"
    )
    listed = "".join(
        f"  {i}. **Look at thing {i}** — See whether {i} is well.\n" for i in range(1, steps + 1)
    )
    return (
        f"\n## {PATROL_HEADS[role]}\n\n{status}**Patrol Work Loop:**\n"
        '1. Work on\n2. At cycle end:\n   * Report and loop: `gt patrol report --summary "<brief>"`\n'
        f'   * Send handoff: `gt handoff -s "{role}" -m "<seen>"`\n\nCurrent patrol ID: {wisp}\n\n'
        f"**Patrol Steps** ({steps} steps from {name}):\n{listed}\n"
    )


def hooked(bead: str, title: str, description: Sequence[str] = ()) -> str:
    """The autonomous directive and the hooked bead."""
    lines = "".join(f"    {x}\n" for x in description)
    return (
        '\n## 🚨 AUTONOMOUS WORK MODE 🚨\n\nWork waits.\n\n1. Announce: "Here."\n'
        f"2. Then IMMEDIATELY run: `bd show {bead}`\n\n**DO NOT:**\n- Ask clarifying questions\n\n"
        f"## Hooked Work\n\n  Bead ID: {bead}\n  Title: {title}\n  Description:\n{lines}\n"
        "**Bead details:**\n\n"
    )


def formula(
    name: str = "mol-polecat-work", molecule: str = "dm-wisp-bb2", variables: Sequence[str] = ()
) -> str:
    """An attached formula with two steps, raw placeholders included."""
    given = "".join(f"  --var {v}\n" for v in variables)
    return (
        f"\n## 🧬 ATTACHED FORMULA (WORKFLOW CHECKLIST)\n\nFormula: {name}\nMolecule ID: {molecule}\n\n"
        f"🧩 VARS (instantiated formula inputs):\n{given}\n\n**Formula Checklist** (2 steps from {name}):\n\n"
        "### Step 1: Read it\n\n```bash\nbd show {{issue}}      # Your assignment\n{{setup_command}}\n```\n"
        "Do NOT fix other things.\n\n### Step 2: Hand it in\n\n"
        "```bash\ngt done --target {{base_branch}}\n```\nREQUIRED: run `gt done`.\n"
    )


def mail(*items: str) -> str:
    """The reminder of ``gt mail check --inject``."""
    listed = "".join(f"- {x}\n" for x in items)
    return (
        f"\n<system-reminder>\nYou have {len(items)} unread message(s) in your inbox.\n\n{listed}\n"
        "Continue your current task. When it completes, check these messages\n"
        "before going idle: 'gt mail inbox'\n</system-reminder>\n"
    )


def directives(text: str) -> str:
    return f"\n## Town Directives (operator policy — overrides formula where they conflict)\n\n{text}\n"


def memories(**values: str) -> str:
    return "\n# Agent Memories\n\n## General\n\n" + "".join(f"- **{k}**: {v}\n" for k, v in values.items())


def prime(role: str, *extra: str, session: str = "3d58e141-03cf", beads: str = BEADS) -> str:
    """A whole prime: metadata, template, then ``extra`` in order, ``bd prime`` after the work sections."""
    head = f"GAS TOWN role:{ACTORS[role]} pid:4242 session:{session}\n# {role.title()} Context\n"
    recovery = "\n> **Recovery**: Run `gt prime` after compaction, clear, or new session\n"
    before = "".join(x for x in extra if not x.startswith(("\n<system", "\n# Agent", "\n---")))
    after = "".join(x for x in extra if x.startswith(("\n<system", "\n# Agent", "\n---")))
    return head + recovery + DOCTRINE + TEMPLATES[role] + before + beads + after
