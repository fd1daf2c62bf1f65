"""Writing text with a model: how a token is chosen, what may not be repeated, when to stop."""
