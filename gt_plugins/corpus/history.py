"""Earlier versions of a file from the history of the repository that it lies in.

A clone that git made shallow has the history that it has: that since it was cloned.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import git

MOST_COMMITS = 200
MOST_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Commit:
    """A commit that touched the file: its id, its time (RFC 3339, UTC) and the file's text in it."""

    id: str
    at: str
    text: str


def head_of(path: Path) -> str:
    """The id of the commit that the file's working folder stands at; empty where it lies in no repository."""
    import git

    try:
        return git.Repo(path.parent, search_parent_directories=True).head.commit.hexsha
    except (git.exc.GitError, git.exc.ODBError, OSError, ValueError):
        return ""


def file_history(path: Path) -> list[Commit]:
    """The commits that touched a file, oldest first; the newest MOST_COMMITS.

    Empty where the file lies in no repository, or git cannot or will not read it (another owner's)."""
    import git

    try:
        repo = git.Repo(path.parent, search_parent_directories=True)
        if repo.working_tree_dir is None:
            return []
        name = path.resolve().relative_to(Path(repo.working_tree_dir).resolve()).as_posix()
        commits = list(repo.iter_commits(paths=name, max_count=MOST_COMMITS))
    except (git.exc.GitError, git.exc.ODBError, OSError, ValueError):
        return []
    found = (_version(commit, name) for commit in reversed(commits))
    return [one for one in found if one is not None]


def _version(commit: git.Commit, name: str) -> Commit | None:
    """A file as a commit has it; None where it is not there, too large or no text."""
    import git

    try:
        blob = commit.tree / name
        if blob.type != "blob" or blob.size > MOST_BYTES:
            return None
        text = blob.data_stream.read().decode("utf-8")
    except (KeyError, git.exc.GitError, git.exc.ODBError, OSError, ValueError):
        return None
    at = datetime.fromtimestamp(commit.committed_date, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Commit(commit.hexsha, at, text)


@dataclass(frozen=True)
class Come:
    """Ids of commits that a working folder has and had not before, whenever they were made: all, and the
    ``fresh`` among them, without those that only replay what it had (a rebase does). ``went_on`` says that it
    went on from there, so that all were put on top of what it had."""

    come: frozenset[str] = frozenset()
    fresh: frozenset[str] = frozenset()
    went_on: bool = True


def come_since(path: Path, commit: str) -> Come | None:
    """What came into the file's working folder since it stood at ``commit``; None where git cannot tell."""
    import git

    try:
        repo = git.Repo(path.parent, search_parent_directories=True)
        went_on = repo.is_ancestor(repo.commit(commit), repo.head.commit)
        come = frozenset(c.hexsha for c in repo.iter_commits(f"{commit}..HEAD"))
        anew = repo.iter_commits(f"{commit}...HEAD", right_only=True, cherry_pick=True)
        return Come(come, come if went_on else frozenset(c.hexsha for c in anew), went_on)
    except (git.exc.GitError, git.exc.ODBError, OSError, ValueError):
        return None
