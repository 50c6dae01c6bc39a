"""The domain: index, decoding, splits, packs of clips, augmentation, models, metrics, figures.

Knows torch and video; knows neither DVC nor the names of the pipeline's files.
"""
