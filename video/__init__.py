"""The domain: index, decoding, splits, packs of clips, augmentation, models, metrics, figures.

Depends on torch and video libraries, but neither on DVC nor on the pipeline's file names.
"""
