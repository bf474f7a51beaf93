"""``node0-finetune``: the training of ``gt model train`` as a command of its own.

It differs in where things are: a corpus or a dataset folder can be named instead of a town, and the job's
states can go to a folder of their own. With a dataset and a folder for checkpoints it needs no town at all,
so that training can run on another machine than the agents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli.common import JsonOption, ModelsOption, TownOption, new_app, print_json, run
from .durable import private_dir
from .errors import UserError
from .town.root import Town, find_town

app = new_app("node0-finetune", "Tune an adapter for a role; the same training as gt model train.")


@dataclass(frozen=True)
class Workplace(Town):
    """A town whose jobs live in ``checkpoints`` where that is given, or that folder alone without a town."""

    checkpoints: Path | None = None

    @property
    def checkpoints_dir(self) -> Path:
        return Town(self.root).checkpoints_dir if self.checkpoints is None else self.checkpoints

    def own_dir(self, path: Path) -> Path:
        """As of a town; the operator's own folder gets no ignore file."""
        if path != self.checkpoints:
            return super().own_dir(path)
        private_dir(path)
        return path


def workplace(corpus: Path | None, town: Path | None, dataset: Path | None, jobs: Path | None) -> Workplace:
    """Where to work: the corpus' town, else ``--town`` or the usual one, else ``jobs`` alone.

    Raises UserError where ``corpus`` is none, or where there is no town and one is needed."""
    if corpus is not None and town is not None:
        raise UserError("--corpus or --town, not both: a corpus belongs to its town")
    chosen = None if jobs is None else jobs.expanduser().absolute()
    if corpus is not None:
        return Workplace(_town_of(corpus.expanduser().absolute()).root, chosen)
    try:
        return Workplace(find_town(town).root, chosen)
    except UserError:
        if town is not None or dataset is None or chosen is None:
            raise
    private_dir(chosen)
    return Workplace(chosen, chosen)


def _town_of(corpus: Path) -> Town:
    """The town of a ``.corpus`` folder, its database, or of the town's own folder."""
    for root in (corpus, *corpus.parents[:2]):
        if Town(root).corpus_db.is_file():
            return Town(root)
    raise UserError(f"{corpus}: no corpus in it; name a town's .corpus folder, or a dataset with --dataset")


@app.command()
def finetune(
    role: Annotated[str, typer.Option("--role", help="deacon, boot, witness, polecat or crew.")],
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="A town's .corpus folder; a dataset is built from it.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option("--dataset", help="A dataset folder.")] = None,
    base: Annotated[str, typer.Option("--base", help="tiny, or a local Hugging Face folder.")] = "tiny",
    checkpoints: Annotated[
        Path | None, typer.Option("--checkpoints", help="Folder for the jobs (the town's .checkpoints).")
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A recipe in TOML.")] = None,
    model: Annotated[str, typer.Option("--model", help="Name of the model (gt-ft-ROLE).")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the role's last job.")] = False,
    epochs: Annotated[float | None, typer.Option("--epochs")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Learning rate.")] = None,
    rank: Annotated[int | None, typer.Option("--rank", help="Rank of the adapter.")] = None,
    batch_tokens: Annotated[int | None, typer.Option("--batch-tokens")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    quantize: Annotated[str | None, typer.Option("--quantize", help="none or nf4.")] = None,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads (0: all).")] = 0,
    town: TownOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune an adapter for a role and register it as the model's next version."""
    from .settings import models_home
    from .town.roles import check_role
    from .training.recipe import load_recipe

    if corpus is not None and dataset is not None:
        raise UserError("--corpus or --dataset, not both: a dataset is built from a corpus")
    check_role(role)
    given: dict[str, Any] = {
        "epochs": epochs,
        "rate": rate,
        "rank": rank,
        "batch_tokens": batch_tokens,
        "seed": seed,
        "quantize": quantize,
    }
    recipe = load_recipe(base, config, **given)
    place = workplace(corpus, town, dataset, checkpoints)
    from .cli import model_train
    from .training.adapter import quiet_libraries
    from .training.run import Request

    quiet_libraries()
    folder = dataset.absolute() if dataset else model_train._built(place, role, base, resume)
    home = models_home(models)
    request = Request(place, home, role, base, folder, recipe, model, resume, threads=threads)
    outcome = model_train.run_with_progress(request, as_json)
    if as_json:
        print_json(model_train.outcome_json(outcome))


def main() -> None:
    """Entry point. Raises SystemExit."""
    run(app)


if __name__ == "__main__":
    main()
