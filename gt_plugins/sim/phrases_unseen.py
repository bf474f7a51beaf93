"""Templates that neither pre-training nor tuning ever sees: the third group of the held-out situations."""

from __future__ import annotations

from collections.abc import Mapping

from .phrase_types import Phrases

UNSEEN: Mapping[str, Phrases] = {
    "session": {
        "alive": (
            "We looked for the pane and it was up",
            "Probe of the session: it runs",
            "As for the process, {pid} is still alive",
            "tmux lists its session as live",
        ),
        "dead": (
            "We looked for the pane and it was gone",
            "Probe of the session: it is not running",
            "As for the process, {pid} is no longer alive",
            "tmux lists no session of it, it exited",
        ),
    },
    "idle": {
        "n": (
            "its last line of output is {n} minutes old",
            "the clock says {n} min since any activity",
            "silent, by our count, for {n} minutes",
            "{n}m on the idle counter",
        ),
    },
    "task": {
        "none": (
            "its hook holds no bead",
            "there is no work for it at the moment",
            "as for work, none is assigned",
            "bead on hook? none",
        ),
        "open": (
            "its hook holds {bead}, and that is open",
            "there is work for it: {bead}, in progress",
            "as for work, {bead} is not done",
            "bead on hook? {bead}, open",
        ),
        "done": (
            "its hook holds {bead}, and that is closed",
            "there was work for it: {bead}, now done",
            "as for work, {bead} is finished",
            "bead on hook? {bead}, closed",
        ),
    },
    "git": {
        "clean": (
            "in the worktree all is committed and pushed",
            "a look at git: clean",
            "as to its branch, nothing is left to push",
        ),
        "dirty": (
            "in the worktree {k} files are modified and uncommitted",
            "a look at git: dirty",
            "as to its branch, {k} changed files wait to be committed",
        ),
        "unpushed": (
            "in the worktree {k} commits are not pushed",
            "a look at git: ahead of origin, unpushed",
            "as to its branch, {k} commits wait to be pushed",
        ),
    },
    "nudges": {
        "0": ("count of nudges up to now: 0", "it was not nudged by anybody", "earlier nudges? none"),
        "n": ("count of nudges up to now: {n}", "it was nudged by us {n} times", "earlier nudges? {n}"),
    },
    "error": {
        "none": ("as for errors, none", "we saw no error at all", "last lines of the log: no problem"),
        "auth": (
            "as for errors, authentication was refused",
            "we saw 401 unauthorized at the end",
            "last lines of the log: login expired",
        ),
        "disk": (
            "as for errors, the disk is full",
            "we saw no space left on device at the end",
            "last lines of the log: disk full",
        ),
        "limit": (
            "as for errors, the rate limit was reached",
            "we saw 429 too many requests at the end",
            "last lines of the log: rate limit",
        ),
        "crash": (
            "as for errors, the client crashed",
            "we saw a stack trace at the end",
            "last lines of the log: panic",
        ),
    },
    "mail": {
        "0": ("unread mail at this time: 0", "its inbox holds nothing", "letters to read? none"),
        "n": ("unread mail at this time: {n}", "its inbox holds {n} messages", "letters to read? {n}"),
    },
}
