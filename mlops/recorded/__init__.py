"""Readers of what git and DVC remember: commits, dvc.lock, DVC's cache."""
