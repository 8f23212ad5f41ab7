"""Ports for servers that are told theirs before they listen: below those that the kernel gives to outgoing connections.

A port that the kernel named a moment ago may be given to any of the thousand connections that other tests open before the
server has come to bind it. Nobody is given one of these unless they ask for it.
"""

import random
import socket

_FIRST, _LAST = 12_000, 32_000  # Linux gives away 32,768 and up
_dice = random.SystemRandom()  # every process draws its own, whatever a test seeds


def free_port() -> int:
    """A TCP port on the loopback that is free, and stays so."""
    while True:
        with socket.socket() as probe:
            port = _dice.randint(_FIRST, _LAST)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
