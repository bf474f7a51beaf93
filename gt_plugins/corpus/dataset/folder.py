"""A dataset's folder: written whole, read back, refused where it is not what its card says.

The hash over what trains, what is held out and the prime is the dataset's name. The cards are not in it:
``README.md`` is for people, who may write into it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...durable import parse_json, private_dir, write_json, write_jsonl, write_text
from ...errors import NonRetriableError, UserError, in_file
from .build import Built
from .card import Facts, card_of, markdown
from .example import Dataset, Example
from .rows import from_row, to_row

DATA_FILES = ("train.jsonl", "heldout.jsonl", "prime.txt")
FILES = (*DATA_FILES, "README.md", "card.json")


def write(folder: Path, role: str, built: Built, facts: Facts | None = None) -> Dataset:
    """Write the dataset folder. Raises UserError where the folder holds something else; what a writing that
    was broken off has left is ours."""
    check_free(folder)
    private_dir(folder)
    (folder / "card.json").unlink(missing_ok=True)
    write_jsonl(folder / "train.jsonl", (to_row(e) for e in built.train))
    write_jsonl(folder / "heldout.jsonl", (to_row(e) for e in built.heldout))
    write_text(folder / "prime.txt", built.prime)
    digest = files_hash(folder)
    card = card_of(role, built, digest, facts or Facts())
    write_text(folder / "README.md", markdown(card))
    write_json(folder / "card.json", card)
    return Dataset(folder, role, digest, built.train, built.heldout, built.prime, card)


def check_free(folder: Path) -> None:
    """Raises UserError where ``folder`` is no place for a dataset."""
    if folder.exists() and not folder.is_dir():
        raise UserError(in_file(folder, "", "is no folder", "choose another one"))
    found = [p.name for p in folder.iterdir()] if folder.exists() else []
    foreign = [name for name in found if name not in FILES and not name.endswith(".tmp")]
    if foreign and "card.json" not in found:
        raise UserError(in_file(folder, "", "is not empty and no dataset", "choose a new folder"))


def files_hash(folder: Path) -> str:
    """The dataset's name: the hash of what trains and of what is held out."""
    digest = hashlib.sha256()
    for name in DATA_FILES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def read(folder: Path) -> Dataset:
    """A dataset folder. Raises UserError where it is none, NonRetriableError where it is not its card's."""
    path = folder / "card.json"
    if not path.is_file():
        raise UserError(
            in_file(path, "", "not there", "build it with `gt corpus dataset --role R --out DIR`")
        )
    try:
        card = dict(parse_json(path.read_text(encoding="utf-8")))
        found = files_hash(folder)
        prime = (folder / "prime.txt").read_text(encoding="utf-8")
    except OSError as error:
        name = Path(error.filename or folder)
        raise UserError(in_file(name, "", error.strerror or "cannot be read", "build it again")) from None
    except (ValueError, TypeError) as error:
        raise UserError(in_file(folder, "", f"not a whole dataset ({error})", "build it again")) from None
    if card.get("hash") != found:
        raise NonRetriableError(
            in_file(folder, "hash", "the files are not those of the card", "build it again")
        )
    return Dataset(
        folder,
        str(card.get("role", "")),
        found,
        tuple(_examples(folder / "train.jsonl")),
        tuple(_examples(folder / "heldout.jsonl")),
        prime,
        card,
    )


def _examples(path: Path) -> Iterator[Example]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(in_file(path, "", f"not UTF-8 text ({error.reason})", "build it again")) from None
    lines = text.removesuffix("\n").split("\n")  # text may hold U+2028
    for number, line in enumerate(lines if lines != [""] else [], 1):
        try:
            yield from_row(parse_json(line))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            told = in_file(path, f"line {number}", f"not an example ({error!r})", "build it again")
            raise UserError(told) from None
