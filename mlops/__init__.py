"""What DVC lacks for training: typed parameters, run directories, tracker, checkpoints, resume.

Knows nothing of video and nothing of the stages. `python -m mlops` answers questions about the
repository.
"""
