"""The command line: one thin file per command; results on stdout, everything else on stderr.

Nothing here imports more than typer until a command runs, so that `--help` answers at once.
"""
