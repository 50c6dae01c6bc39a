"""Splits: groups, fingerprints, near-duplicates, leakage."""
