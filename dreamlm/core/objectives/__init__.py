"""What is minimised. An objective returns its losses by name, unweighted, as sums over real tokens."""
