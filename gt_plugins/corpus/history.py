"""Earlier versions of a file from the history of the repository that it lies in."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

MOST_COMMITS = 200
MOST_BYTES = 1024 * 1024


def file_history(path: Path) -> list[tuple[str, str]]:
    """(time of the commit in RFC 3339 and UTC, text) of each version, oldest first; the newest MOST_COMMITS.

    Empty where the file lies in no repository, or git cannot or will not read it (another owner's)."""
    import git

    try:
        repo = git.Repo(path.parent, search_parent_directories=True)
        if repo.working_tree_dir is None:
            return []
        name = path.resolve().relative_to(Path(repo.working_tree_dir).resolve()).as_posix()
        commits = list(repo.iter_commits(paths=name, max_count=MOST_COMMITS))
    except (git.exc.GitError, OSError, ValueError):
        return []
    found = []
    for commit in reversed(commits):
        try:
            blob = commit.tree / name
            if blob.type != "blob" or blob.size > MOST_BYTES:
                continue
            text = blob.data_stream.read().decode("utf-8")
        except (KeyError, UnicodeDecodeError, git.exc.GitError, OSError, ValueError):
            continue
        at = datetime.fromtimestamp(commit.committed_date, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        found.append((at, text))
    return found
