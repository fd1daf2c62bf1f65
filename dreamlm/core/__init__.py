"""Everything that computes. Imports none of its siblings."""
