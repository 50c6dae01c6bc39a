"""Trained models in files that other programs run."""
