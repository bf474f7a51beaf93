"""Scrubbing: ordered layers find secrets and personal data, typed surrogates take their place."""
