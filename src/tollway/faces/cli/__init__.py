"""The command line: `tollway …`. One module per command (or group), imported only when that command is used.

root.py       the list of commands and `main`          desk.py     what every command works at: home, JSON, talk
tables.py     rows and money for people                 reference.py  writes docs/cli.md and docs/settings.md
"""

from tollway.faces.cli.root import main

__all__ = ["main"]
