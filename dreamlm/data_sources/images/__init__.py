"""Pictures: a file made into pixels, whatever it holds."""
