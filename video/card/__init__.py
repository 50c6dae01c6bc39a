"""Model cards: what is recorded of a trained model, for those who only have its file."""
