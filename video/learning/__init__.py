"""Training: the learner, losses, optimizer, weight averaging, memory, prediction."""
