"""How reports word the facts: five pools of templates, kept apart.

``common``  what the example town's own reports use: training sessions and one group of held-out cases
``wide``    what the tiny base reads besides in pre-training, and a second group of held-out cases
``prose``   more of that, in freer sentences, written by an author who did not know ``unseen``
``talk``    as different from these as could be thought of (docs/base.md says what its author knew)
``unseen``  sentences and layouts that neither pre-training nor tuning ever sees: the third group

A template may hold alternatives in brackets, ``[session|pane]``, which are drawn at random.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

from .phrase_types import Phrases
from .phrases_prose import PROSE
from .phrases_talk import TALK
from .phrases_unseen import UNSEEN

POOLS = ("common", "wide", "prose", "talk", "unseen")
_CHOICE = re.compile(r"\[([^\[\]]*\|[^\[\]]*)\]")

# kind -> value (or "n" for a number, "0" and "1" where number words differ) -> templates
COMMON: Mapping[str, Phrases] = {
    "session": {
        "alive": ("session: alive", "tmux session is up", "pane answers, session running", "state: running"),
        "dead": ("session: dead", "tmux session is gone", "no pane, session not running", "state: exited"),
    },
    "idle": {
        "n": ("idle: {n}m", "last activity {n} minutes ago", "no output for {n} min", "quiet since {n}m"),
    },
    "task": {
        "none": ("hook: empty", "nothing on the hook", "no task assigned", "work: none"),
        "open": (
            "hook: {bead}",
            "{bead} on the hook, still open",
            "task {bead} in progress",
            "work: {bead} open",
        ),
        "done": ("hook: {bead} closed", "{bead} is finished", "task {bead} done", "work: {bead} done"),
    },
    "git": {
        "clean": ("git: clean", "worktree clean, all pushed", "nothing to commit, branch pushed"),
        "dirty": ("git: dirty, {k} files", "{k} uncommitted files", "worktree has {k} changed files"),
        "unpushed": ("git: {k} unpushed commits", "{k} commits not pushed", "branch ahead of origin by {k}"),
    },
    "nudges": {
        "0": ("nudges: 0", "not nudged yet", "no nudge so far"),
        "n": ("nudges: {n}", "nudged {n} times", "{n} nudges so far"),
    },
    "error": {
        "none": ("errors: none", "no errors in the pane", "log clean"),
        "auth": ("errors: authentication failed", "pane shows 401 unauthorized", "login expired"),
        "disk": ("errors: no space left on device", "disk full", "write failed, disk is full"),
        "limit": ("errors: rate limited", "pane shows 429 too many requests", "rate limit reached"),
        "crash": ("errors: process crashed", "pane shows a stack trace", "client crashed"),
    },
    "mail": {
        "0": ("mail: 0 unread", "inbox empty", "no mail waiting"),
        "n": ("mail: {n} unread", "{n} messages waiting", "inbox has {n} unread"),
    },
}

WIDE: Mapping[str, Phrases] = {
    "session": {
        "alive": (
            "[session|pane|agent|process|client] [is alive|alive|up|is up|live|is live|running|still runs]",
            "[session|pane|agent|tmux]=[alive|up|running|live]",
            '"[session|state|status|pane]": "[alive|running|up|live]"',
            "[alive|running|up]: [yes|true]",
            "[dead|gone|exited]: [no|false]",
            "has-session [ok|yes|0]",
            "[found|there is] a [live|running] [session|pane|process]",
            "[it|the agent|the session] [answers|responds] to [ping|probe]s",
            "[process|client] {pid} [is alive|running|up]",
            "[session|pane] [check|probe] [passed|ok]",
            "[the|its] [session|pane|process] [has not died|did not exit|is not gone|is there]",
            "{pid} [running|alive] in the [pane|session]",
        ),
        "dead": (
            "[session|pane|agent|process|client] [is dead|dead|down|is down|gone|is gone|exited|not there]",
            "[session|pane|agent|tmux]=[dead|down|exited|gone]",
            '"[session|state|status|pane]": "[dead|exited|down|gone]"',
            "[alive|running|up]: [no|false]",
            "[dead|gone|exited]: [yes|true]",
            "has-session [failed|no|1]",
            "[found no|there is no|no] [live|running] [session|pane|process]",
            "[it|the agent|the session] [does not answer|no longer answers|never answers] [ping|probe]s",
            "[process|client] {pid} [is dead|exited|not found|gone]",
            "[session|pane] [check|probe] [failed|found nothing]",
            "[the|its] [session|pane|process] [has died|did exit|is gone|is not there]",
            "{pid} [exited|dead], [pane|session] [closed|gone]",
        ),
    },
    "idle": {
        "n": (
            "[idle|inactive|silent|quiet|still] [for|since|] {n}[m| min| minutes|min]",
            "[idle|idle_min|idle_minutes|age|inactive]=[{n}|{n}m]",
            '"[idle|idle_minutes|minutes_idle|age]": {n}',
            "{n}[m| min| minutes] [idle|without output|without activity|of silence|since last output]",
            "[last|latest] [output|activity|heartbeat|sign of life|line] [was|] {n}[m| min| minutes] ago",
            "[no|not a] [output|activity|line|heartbeat|word|move] [for|in] [the last|] {n}[m| min| minutes]",
            "[heartbeat|activity] age [is|:|of] {n}[m| min| minutes]",
            "[nothing|no line] [printed|written|seen] [for|in] {n}[m| min| minutes]",
            "[moved|active|wrote|seen] {n}[m| min| minutes] ago",
            "{n}[m| min| minutes] [have passed|went by] [since it|since the agent] [moved|wrote]",
        ),
    },
    "task": {
        "none": (
            "[hook|work|task|job|bead|assignment]=[none|empty|-|nil]",
            '"[hook|work|task|bead]": null',
            "[hook|work|task|job] [none|empty|is empty|-]",
            "[no|without] [work|task|bead|job|assignment] [hooked|assigned|on hook|in hand|]",
            "[nothing|no bead] [hooked|assigned|in hand|to do]",
            "[has|holds] no [work|task|bead|job]",
            "[hook|queue] [slot|] [free|unused]",
            "[it|the agent] [was given|has been given|got] [nothing|no task|no work]",
        ),
        "open": (
            "[hook|work|task|job|bead|assignment]=[{bead}|{bead}:open|{bead},open]",
            '"[hook|work|task|bead]": "{bead}"[|, "status": "open"]',
            "[hook|work|task|job] {bead} [open|in progress|unfinished|not closed|pending]",
            "[holds|has|works on|carries|owns] [|task |bead |work ]{bead}[|, open|, not done|, unfinished]",
            "{bead} [is open|in progress|not done|unfinished|pending|hooked]",
            "[assigned|hooked|in hand]: {bead}[|, open|, in progress]",
            "[bead|task|work] {bead} [still waits|is not closed|is still open|remains open]",
            "[it|the agent] [was given|has|got] {bead}[| and has not closed it|, which is open]",
        ),
        "done": (
            "[hook|work|task|job|bead|assignment]=[{bead}:done|{bead}:closed|{bead},done]",
            '"[hook|work|task|bead]": "{bead}", "status": "[closed|done]"',
            "[hook|work|task|job] {bead} [closed|done|finished|complete|completed]",
            "[finished|closed|completed|done with] [|task |bead |work ]{bead}",
            "{bead} [is closed|closed|is done|is complete|was finished|has been closed]",
            "[done|closed|completed]: {bead}",
            "[bead|task|work] {bead} [was closed|is finished|reached done|has been done]",
            "[it|the agent] [closed|finished|completed] {bead}",
        ),
    },
    "git": {
        "clean": (
            "[git|tree|worktree|branch|repo] [clean|is clean|status clean|ok, clean]",
            "[git|tree|worktree|repo]=[clean|pushed]",
            '"[git|git_state|worktree|tree]": "clean"',
            "[dirty|uncommitted|unpushed]: [0|no|none|false]",
            "[all|everything] [committed and pushed|pushed|is on origin|safe on origin]",
            "[nothing|no change] [uncommitted|to commit|to save][|, nothing to push|, all pushed]",
            "[branch|tree] [matches|equals|is even with] origin",
            "[no|without] [loose|local|unsaved] [changes|work|files]",
        ),
        "dirty": (
            "[git|tree|worktree|branch|repo] [dirty|is dirty|has changes|not clean]",
            "[git|tree|worktree|repo]=[dirty|dirty:{k}|modified]",
            '"[git|git_state|worktree|tree]": "dirty"',
            "[dirty|uncommitted]: [{k}|yes|true|{k} files]",
            "{k} [files|paths] [modified|changed|uncommitted|not committed|edited]",
            "[uncommitted|modified|changed|unsaved] [files|work|edits][|: {k}| in {k} files]",
            "[git status|status] [lists|shows] {k} [changed|modified|dirty] [files|paths]",
            "[changes|edits] [not committed|were never committed]",
        ),
        "unpushed": (
            "[git|tree|worktree|branch|repo] [unpushed|not pushed|ahead|ahead by {k}]",
            "[git|tree|worktree|repo]=[unpushed|ahead:{k}|ahead]",
            '"[git|git_state|worktree|tree]": "unpushed"',
            "[unpushed|ahead]: [{k}|yes|true|{k} commits]",
            "{k} [commits|patches] [unpushed|ahead|not on origin|only local|never pushed]",
            "[unpushed|local] commits[|: {k}]",
            "[branch|git] is {k} [ahead|commits ahead][| of origin]",
            "[commits|work] [not pushed|never reached origin|missing from origin]",
        ),
    },
    "nudges": {
        "0": (
            "[nudges|nudge_count|pokes|reminders]=0",
            '"[nudges|nudge_count|reminders]": 0',
            "[nudges|reminders|pokes] [none|0|sent: 0|so far: 0]",
            "[never|not] [nudged|reminded|poked][| before| until now]",
            "[no|zero] [nudge|reminder|poke]s [sent|given|on record|]",
            "[nobody|no one] [nudged|reminded|poked] it",
        ),
        "n": (
            "[nudges|nudge_count|pokes|reminders]={n}",
            '"[nudges|nudge_count|reminders]": {n}',
            "[nudges|reminders|pokes] [{n}|sent: {n}|so far: {n}]",
            "[nudged|reminded|poked] {n}[x| times| time(s)][| before| already| since]",
            "{n} [nudge|reminder|poke](s) [sent|given|on record|without effect|]",
            "[got|had|received] {n} [nudge|reminder|poke](s)[| already]",
            "[after|despite] {n} [nudge|reminder|poke](s)",
        ),
    },
    "error": {
        "none": (
            "[error|errors|fault|faults|problem]=[none|0|-|no]",
            '"[error|errors|last_error]": null',
            "[errors|faults|problems] [none|0|no]",
            "[no|zero|without] [errors|error|faults|problems|failures] [seen|found|logged|reported|]",
            "[log|pane|stderr] [clean|clear|ok|is clean|shows nothing]",
            "[nothing|all] [wrong|fine|failed] [in|by] the [log|pane]",
        ),
        "auth": (
            "[error|fault|problem|last_error]=[auth|401|unauthorized|login]",
            '"[error|last_error]": "[401|auth|unauthorized|login expired]"',
            "[authentication|auth|login|credentials|token] [failed|expired|rejected|refused|invalid]",
            "[pane|log|client] [shows|says|prints|reports] [401|unauthorized|login required|please log in]",
            "[401|403] [unauthorized|forbidden|from the api|from provider]",
            "[cannot|could not|unable to] [log in|authenticate|sign in]",
            "[api key|credentials|token] [not accepted|was refused|are invalid|no longer valid]",
        ),
        "disk": (
            "[error|fault|problem|last_error]=[disk|enospc|disk_full|no_space]",
            '"[error|last_error]": "[ENOSPC|disk full|no space left]"',
            "[disk|volume|filesystem|partition] [full|is full|out of space|at 100%]",
            "[pane|log|client] [shows|says|prints|reports] [ENOSPC|no space left|disk full]",
            "no space [left|left on device|on disk|on the volume]",
            "[cannot|could not|unable to] write, [disk|volume] full",
            "[write|save] failed: [no space|disk full|ENOSPC]",
        ),
        "limit": (
            "[error|fault|problem|last_error]=[limit|429|rate_limit|throttled]",
            '"[error|last_error]": "[429|rate limit|throttled]"',
            "[rate|usage|request] limit [hit|reached|exceeded|in force]",
            "[pane|log|client] [shows|says|prints|reports] [429|too many requests|rate limit]",
            "429 [too many requests|from the api|from provider]",
            "[throttled|slowed down|being throttled] [by the api|by provider|]",
            "[retry|try again|come back] later, [rate|usage] limit",
        ),
        "crash": (
            "[error|fault|problem|last_error]=[crash|panic|segfault|traceback]",
            '"[error|last_error]": "[crash|panic|stack trace]"',
            "[client|process|agent|it] [crashed|panicked|hit a panic|broke down]",
            "[pane|log|client] [shows|says|prints|reports] [a panic|a traceback|stack trace|segfault]",
            "[panic|traceback|segfault|stack trace] in [the log|the pane|stderr]",
            "[fatal|unhandled] [error|exception][|, stack trace follows]",
            "[core dumped|segmentation fault|unhandled exception]",
        ),
    },
    "mail": {
        "0": (
            "[mail|inbox|unread|messages]=0",
            '"[mail|unread|inbox]": 0',
            "[mail|inbox|messages] [none|empty|0|is empty]",
            "[no|zero] [mail|messages|unread mail] [waiting|pending|in the inbox|]",
            "[nothing|no letter] [in the inbox|unread|to read]",
        ),
        "n": (
            "[mail|inbox|unread|messages]={n}",
            '"[mail|unread|inbox]": {n}',
            "[mail|inbox|messages] [{n}|has {n}|holds {n}|: {n} new]",
            "{n} [mail|message|unread mail](s) [waiting|pending|in the inbox|unread|to read]",
            "[has|with] {n} [unread|new|waiting] [message|mail](s)",
        ),
    },
}

PHRASES = {"common": COMMON, "wide": WIDE, "prose": PROSE, "talk": TALK, "unseen": UNSEEN}


def expand(template: str, rng: random.Random) -> str:
    """A template with one of each bracket's alternatives chosen."""
    while True:
        match = _CHOICE.search(template)
        if match is None:
            return re.sub(r"  +", " ", template).strip()
        choice = rng.choice(match.group(1).split("|"))
        template = template[: match.start()] + choice + template[match.end() :]


def fact_phrase(
    kind: str, value: str | int, pool: str, rng: random.Random, slots: Mapping[str, object]
) -> str:
    """One fact in words. ``slots`` fill {bead}, {pid}, {k}."""
    by_value = PHRASES[pool][kind]
    key = str(value)
    if key not in by_value:
        key = "n"
    text = expand(rng.choice(by_value[key]), rng)
    if "{" not in text:
        return text
    return text.replace("{n}", str(value)).format_map(_Slots({**number_words(value), **slots}))


_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NTH = ("zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


def number_words(value: str | int) -> dict[str, str]:
    """A number as ``{word}``, ``{times}`` and ``{nth}``: two, twice, second; digits where it is large."""
    if not isinstance(value, int):
        return {}
    word = _WORDS[value] if value < len(_WORDS) else str(value)
    times = {1: "once", 2: "twice"}.get(value, f"{word} times")
    return {"word": word, "times": times, "nth": _NTH[value] if value < len(_NTH) else f"{value}th"}


class _Slots(dict[str, object]):
    """Fills known slots; braces that are JSON stay as they are."""

    def __missing__(self, key: str) -> str:
        return "{" + key + "}"
