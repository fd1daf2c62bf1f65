"""`dreamlm doctor`."""
