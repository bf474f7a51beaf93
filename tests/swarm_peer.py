"""One peer as a process of its own, for tests that kill it: prints its address, then trains."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from swarm_helpers import FAST, LinearTrainer, make_member, start_peer


def main() -> None:
    folder, name, *seeds = sys.argv[1:]
    peers = start_peer(Path(folder), name, tuple(seeds))
    print(peers.addresses[0], flush=True)
    trainer = LinearTrainer()
    trainer.pause = 0.1
    with make_member(peers, replace(FAST, min_peers=3)) as member:
        member.enter(trainer, Path(folder))
        trainer.run(member)


if __name__ == "__main__":
    main()
