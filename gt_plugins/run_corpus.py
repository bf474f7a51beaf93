"""``node0-corpus``: the same commands as ``gt corpus``."""

from .cli.corpus import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
