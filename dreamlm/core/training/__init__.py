"""Training: the loop, what it remembers, and the rooms around it (backends, optimizers, schedules, hooks)."""
