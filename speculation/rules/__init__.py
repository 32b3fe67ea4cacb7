"""Verification rules for drafts that are samples, for research and comparison; the service uses shared noise.

Each file holds one rule and the argument why it is exact. `registry.py` knows them by name, `compare.py` puts them side
by side on the same drafts.
"""
