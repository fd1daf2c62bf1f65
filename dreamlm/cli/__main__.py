"""`python -m dreamlm.cli`: for launchers such as torchrun, which start a module."""

from dreamlm.cli.app import main

main()
