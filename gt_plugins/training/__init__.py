"""Tuning a role's adapter: the recipe, the loop, the job's life, and the tiny base that needs no download."""
