"""The same shop with its replica on a Ray cluster of this machine, beside one with its replica on the machine itself."""

from bench.rig.figures import Figure
from bench.rig.processes import Rig, talk
from bench.rig.store import Missing
from bench.serving import loads, models, ours

_CONNECTIONS = 64


def figures(rig: Rig, quick: bool) -> list[Figure]:
    """Throughput through a Ray host's relay as a share of that through a unix socket, in turns."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise Missing("ray is not installed: pip install 'tollway[ray]'") from error
    texts = models.texts(600)
    here = ours.start(rig, place="home-local")
    there = ours.start(rig, "--ray", place="home-ray")
    shares = []
    for number in range(2 if quick else 5):
        pair = {"local": here, "ray": there}
        order = sorted(pair, reverse=bool(number % 2))
        seen = {name: loads.closed(pair[name].target, texts, _CONNECTIONS, 4.0 if quick else 6.0) for name in order}
        shares.append(seen["ray"].rate / max(seen["local"].rate, 1e-9))
        talk(f"  round {number + 1}: local {seen['local'].row()}\n{'':11}on Ray {seen['ray'].row()}")
    rig.stop(here.child)
    rig.stop(there.child)
    return [Figure("ray_vs_local", shares, "ratio", 0.90, "the same replica on a unix socket of this machine")]
