"""An engine whose process does what its input says: answers, dies, is slow, fails. For what real engines do once a year."""

import sys
from pathlib import Path

from tollway.serve.engines import Address, Caps, Launch, Probe

_PROGRAM = Path(__file__).with_name("mortal_program.py")


class Mortal:
    """`slots` calls at a time. Inputs: "die" ends the process, "slow N" takes N ms, "fail" is answered with a
    500, and after "sicken" everything but the probe is, until "heal"."""

    name = "mortal"
    model = "m"
    probe = Probe(path="/classify", body={"input": ["."]})
    pulse = "/pulse"

    def __init__(self, slots: int = 4, *, stillborn: bool = False, hungry: bool = False, version: str = "1") -> None:
        self.version = version
        self.caps = Caps(classify=True, slots=slots)
        self._words = ["stillborn"] * stillborn + ["hungry"] * hungry

    def launch(self, socket: Path) -> Launch:
        return Launch(argv=(sys.executable, str(_PROGRAM), str(socket), *self._words), first_line=b"go\n")

    def address(self, socket: Path) -> Address:
        return Address(url=f"unix:{socket}")
