"""Augmentation of clips: configuration, drawn parameters, operations on pixels."""
