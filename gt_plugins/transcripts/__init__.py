"""Readers of agents' session files: each yields the one :class:`~gt_plugins.transcripts.model.Session`."""
