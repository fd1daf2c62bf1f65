"""What a model is worth: its loss on held-out text, with how far to trust the figure."""
