"""Scores: metrics, baselines, comparisons of models, the summary."""
