"""The steps of `prepare`, one file each: spool, duplicates, split, sample, encoders, tokenise, cache key."""
