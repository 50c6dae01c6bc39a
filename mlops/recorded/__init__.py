"""What git and DVC remember: commits, dvc.lock, DVC's cache."""
