"""Gas Town and beads as they are: where things stand, what roles there are, how to call ``gt`` and ``bd``."""
