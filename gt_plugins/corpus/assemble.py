"""Building a dataset folder: the town's corpus, the role's profile, every plugin's filters and suites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import UserError
from ..plugins import plugin_manager
from ..rendering.conversation import prime_in
from ..roles.profile import Profile, load_profile
from ..settings import load_settings
from ..town.root import Town
from . import dataset
from .dataset import Dataset, Example, Verdict
from .outcomes.compute import compute
from .store import Store, exists


def build_dataset(town: Town, role: str, out: Path, base: str = "tiny") -> Dataset:
    """Write ``out`` and note it in the corpus. Raises UserError where there is no corpus."""
    if not exists(town):
        raise UserError(f"{town.corpus_db}: no corpus yet; run `gt corpus sweep` first")
    profile = load_profile(role)
    slim = slimmer(town, profile, base)
    with Store(town) as store:
        compute(town, store)
        examples, drops, prime = dataset.build(
            store.sessions(role), profile, slim, suite_texts(role), plugin_filters()
        )
        made = dataset.write(out, role, examples, drops, prime, "tiny" if base == "tiny" else "standard")
        store.record_dataset(out, made.card["sessions"], made.hash, role)
    return made


def slimmer(town: Town, profile: Profile, base: str) -> Callable[[str], str]:
    """The function that makes a stock prime as small as the deployed role's, plugins' sections in it too,
    without the tags around it."""
    from ..prime.budget import Deployed, prime_tokens
    from ..prime.command import offered_sections
    from ..prime.slim import slim

    tokens = prime_tokens({"base": base}, load_settings(town))
    deployed = Deployed(profile.role, profile.folder, tokens, profile.rules)
    offers = offered_sections(deployed, town.root)

    def made(stock: str) -> str:
        extra = [section for offer in offers for section in offer(stock)]
        return prime_in(slim(stock, profile.role, tokens=tokens, rules=profile.rules, extra=extra).text)

    return made


def suite_texts(role: str) -> Iterator[str]:
    """The evidence of every held-out case of every suite of the role."""
    from ..evaluation.suites import all_suites

    for suite in all_suites():
        if role in suite.roles:
            yield from (case.evidence for case in suite.cases())


def plugin_filters() -> Callable[[Example], Verdict | None]:
    """All filters as one: the first that drops an example decides."""
    hook = plugin_manager().hook.gt_dataset_filters

    def judge(example: Example) -> Verdict | None:
        verdicts = [v for v in hook(example=example) if v is not None and not v.keep]
        return verdicts[0] if verdicts else None

    return judge
