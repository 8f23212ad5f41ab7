"""`python -m tollway` is the same as the `tollway` command."""

from tollway.faces.cli import main

main()
