"""Metrics, baselines, comparisons of models, and the summary."""
