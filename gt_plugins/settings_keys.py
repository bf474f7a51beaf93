"""Every table and key of ``settings/finetune.toml`` that is ours, and what its value has to be.

A slip of the pen must not go unnoticed: a misspelt ``exclude_rigs`` would capture a private rig, a misspelt
``threshold`` would let a model through. So an unknown key in a table of ours is an error, and so is a table
that is nearly called like one; other tables are left to the plugins of third parties.

The session's hook checks by this too and has 50 ms for everything, so nothing is imported here at the top.
"""

TABLES = {
    "consent": {"granted": "flag", "by": "text", "at": "text"},
    "capture": {"exclude_rigs": "texts"},
    "collect": {"specs": "texts"},
    "scrub": {"deny": "texts", "allow": "texts", "keychains": "texts"},
    "gate": {"threshold": "fraction", "roles": "table"},
    "prime": {"tokens": "tokens"},
    "outcomes": {"window_minutes": "span", "settle_hours": "span"},
    "rollout": {"off": "texts", "hold": "text", "polecat": "table"},
}
"""Table → key → kind of value."""
PRIVACY = ("consent", "capture", "scrub")
"""The tables that say what may be stored."""


def slip(document: dict) -> tuple[str, str, str] | None:
    """The first thing that is wrong with a parsed ``finetune.toml``: where (table and key), what, and how to
    mend it. None where all is well."""
    for name, table in document.items():
        if name in TABLES:
            found = _slip_in(name, table)
        else:
            found = _slip_of_name(name)
        if found:
            return found
    return None


def _slip_of_name(name: str) -> tuple[str, str, str] | None:
    import difflib

    near = difflib.get_close_matches(name, TABLES, 1, 0.8)
    return (name, "no such table", f"do you mean [{near[0]}]?") if near else None


def _slip_in(name: str, table: object) -> tuple[str, str, str] | None:
    if not isinstance(table, dict):
        return name, "not a table", f"write it as [{name}]"
    kinds = TABLES[name]
    for key, value in table.items():
        where = f"{name}.{key}"
        if key not in kinds:
            return where, "not a key of this table", f"known: {', '.join(kinds)}"
        found = _slip_of_value(kinds[key], value)
        if found:
            return where, found[0], found[1].replace("[TABLE]", f"[{where}]")
    return None


def _slip_of_value(kind: str, value: object) -> tuple[str, str] | None:
    """What is wrong with a value, and how to mend it; None for a good one."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
    strings = isinstance(value, list) and all(isinstance(v, str) for v in value)
    good, problem, mend = {
        "flag": (isinstance(value, bool), f"{value!r} is neither true nor false", "write true or false"),
        "text": (not isinstance(value, dict | list), "not a text", 'write it in quotes, as "this"'),
        "texts": (strings, "not a list of strings", 'write ["a", "b"]'),
        "table": (isinstance(value, dict), "not a table", "write it as [TABLE]"),
        "fraction": (0 <= number <= 1, f"{value!r} is no fraction", "use 0.0 to 1.0"),
        "tokens": (1 <= number < 1e6, f"{value!r} is no number of tokens", "use 1 or more"),
        "span": (0 < number < 1e6, f"{value!r} is no such time", "use a number above 0"),
    }[kind]
    return None if good else (problem, mend)
