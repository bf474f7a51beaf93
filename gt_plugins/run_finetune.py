"""``node0-finetune``: the training of ``gt model train`` as a command of its own.

It differs in where things are: a corpus or a dataset folder can be named instead of a town, and the job's
states can go to a folder of their own. With a dataset and a folder for checkpoints it needs no town at all,
so that training can run on another machine than the agents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli.common import JsonOption, ModelsOption, TownOption, checked, new_app, print_json, run
from .cli.recipe_flags import Chosen, recipe_flags
from .cli.swarm_flags import SwarmOptions, swarm_flags
from .durable import private_dir
from .errors import UserError
from .town.root import Town, find_town

if TYPE_CHECKING:
    from .training.recipe import Recipe
    from .training.run import Request

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

    Raises UserError where ``corpus`` is none, ``jobs`` a file, or a town is needed and not there."""
    if corpus is not None and town is not None:
        raise UserError("--corpus or --town, not both: a corpus belongs to its town")
    chosen = None if jobs is None else jobs.expanduser().absolute()
    if chosen is not None and chosen.exists() and not chosen.is_dir():
        raise UserError(f"{chosen}: a file, not a folder (--checkpoints)")
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
@swarm_flags
@recipe_flags
def finetune(
    role: Annotated[str, typer.Option("--role", help="deacon, boot, witness, polecat or crew.")],
    chosen: Chosen,
    asked: SwarmOptions,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="A town's .corpus folder; a dataset is built from it.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option("--dataset", help="A dataset folder.")] = None,
    checkpoints: Annotated[
        Path | None, typer.Option("--checkpoints", help="Folder for the jobs (the town's .checkpoints).")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Name of the model (gt-ft-ROLE).")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the role's last job.")] = False,
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads (0: all).")] = 0,
    town: TownOption = None,
    models: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune an adapter for a role and register it as the model's next version, alone or in a swarm."""
    from .roles.profile import check_tunable
    from .settings import models_home

    if corpus is not None and dataset is not None:
        raise UserError("--corpus or --dataset, not both: a dataset is built from a corpus")
    check_tunable(role)
    place = checked(workplace(corpus, town, dataset, checkpoints))
    from .training.adapter import quiet_libraries

    quiet_libraries()
    swarm = asked.request(lambda: place.own_dir(place.checkpoints_dir))
    from .training.run import Request

    _train(
        Request(
            place,
            models_home(models),
            role,
            chosen.base,
            dataset,
            chosen.recipe if swarm is None else _of_a_peer(chosen.recipe),
            model,
            resume,
            threads=threads,
            swarm=swarm,
        ),
        as_json,
    )


def _of_a_peer(recipe: Recipe) -> Recipe:
    """All peers end with the same adapter, so none keeps a better one of its own or ends by itself."""
    return replace(recipe, keep_best=False, patience=0)


def _train(request: Request, as_json: bool) -> None:
    """Train what is asked for, with the processes that ``torchrun`` started, if it did. Raises UserError for
    a swarm's peer of several processes."""
    from .cli import model_train
    from .training.parallel import together

    with together() as group:
        if request.swarm is not None and not group.alone:
            raise UserError("a swarm's peer is one process: start it without torchrun, one for each GPU")
        place, role, base = request.town, request.role, request.base
        folder = model_train.dataset_for(group, place, role, base, request.dataset, request.resume)
        whole = replace(request, dataset=folder, group=group)
        outcome = model_train.run_with_progress(whole, as_json)
        if as_json and group.first:
            print_json(model_train.outcome_json(outcome))


def main() -> None:
    """Entry point. Raises SystemExit."""
    run(app)


if __name__ == "__main__":
    main()
