"""Classifiers: the small one of this repository, and those of torchvision."""
