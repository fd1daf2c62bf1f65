"""What a model dreams while it writes: collected by segment, put into words, and written down in several forms."""
