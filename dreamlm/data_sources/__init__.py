"""From documents anywhere to a prepared corpus on disk, and from the corpus to an exact order of training windows."""
