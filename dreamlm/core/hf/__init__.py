"""dreamlm's decoder as a model of `transformers`: configuration, cache, model, and how the Auto classes learn of it.

Only `registration` may be imported without transformers; the package does so itself.
"""
