"""Policies of `speculation/` run on recorded requests of real models: `python -m benchmarks.policies --help`."""
