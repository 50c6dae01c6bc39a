"""Augmentation of clips: configuration, sampled parameters, operations on pixels."""
