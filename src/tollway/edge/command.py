"""The command of a device: `python edge.py classify "a text"`, embed, serve, status, sync, verify."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tollway.edge.device import Device
from tollway.edge.sync import sync
from tollway.kit.errors import BadRequest, TollwayError


def main(folder: Path, words: Sequence[str] | None = None) -> int:
    """Run one command; its answer is JSON on standard output, its error one sentence on standard error."""
    asked = _parser().parse_args(words)
    try:
        device = Device(folder, Path(asked.state) if asked.state else None, asked.threads)
        told = _done(device, asked)
    except TollwayError as error:
        sys.stderr.write(f"Error: {error.message}\n" + (f"Do this: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    except OSError as error:  # a full disk, a port that is taken, a file that may not be read
        sys.stderr.write(f"Error: {error}.\n")
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    return 0


def _done(device: Device, asked: argparse.Namespace) -> dict[str, Any]:
    if asked.command == "classify":
        return device.classify([one for given in asked.input for one in _inputs(given)], asked.top_k)
    if asked.command == "embed":
        return device.embed(list(asked.input))
    if asked.command == "serve":
        return _serve(device, asked)
    if asked.command == "sync":
        key = os.environ.get("TOLLWAY_KEY", "")
        if not key:
            raise BadRequest("No key was given.", hint="Set TOLLWAY_KEY to a key of the organization of this device.")
        return dict(sync(device, key, asked.url or ""))
    checked = device.verify() if asked.command == "verify" else None
    counted = device.log.verify()
    about = {name: device.about[name] for name in ("device", "model", "version", "format", "organization", "url")}
    if checked is not None:
        return {"verified": True, **{name: about[name] for name in ("device", "model", "version")}, "checked": checked}
    return about | {"entries": counted, "synced": device.log.synced()}


def _inputs(given: str) -> list[Any]:
    """A text; `@file` for a picture, or for JSON (`.json`: an input, or what an example of a package holds); an object with
    the model's fields as JSON."""
    if given.startswith("@"):
        import base64

        path = Path(given[1:])
        if not path.is_file():
            raise BadRequest(f"There is no file {path}.")
        if path.suffix == ".json":
            held = _json(path.read_text(encoding="utf-8", errors="replace"))
            found = held["input"] if isinstance(held, dict) and set(held) == {"input"} else held
            return found if isinstance(found, list) else [found]
        kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif", ".bmp": "bmp"}.get(path.suffix, "png")
        return [f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode("ascii")]
    return [_json(given) if given.startswith("{") else given]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"This is not valid JSON: {error}.") from None


def _from_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("a whole number from 1 is expected")
    return number


def _port(text: str) -> int:
    if not 0 <= int(text) < 65536:
        raise argparse.ArgumentTypeError("a number from 0 to 65535 is expected")
    return int(text)


def _serve(device: Device, asked: argparse.Namespace) -> dict[str, Any]:
    from tollway.edge.server import serve

    device.verify()
    with serve(device, asked.host, asked.port) as server:
        sys.stderr.write(f"{device.model} answers on http://{asked.host}:{server.server_address[1]}/v1\n")
        sys.stderr.flush()
        server.serve_forever()
    return {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edge.py", description="A model of a shop, on this device.")
    parser.add_argument("--state", default="", help="where the usage log is kept; else the folder's own state/")
    parser.add_argument("--threads", type=_from_one, default=1, help="CPU threads of the engine")
    commands = parser.add_subparsers(dest="command", required=True)
    classify = commands.add_parser("classify", help="classes or numbers for texts, @pictures or rows as JSON")
    classify.add_argument("input", nargs="+", help="a text, @picture, @input.json, or JSON")
    classify.add_argument("--top-k", type=_from_one, default=None)
    commands.add_parser("embed", help="vectors for texts").add_argument("input", nargs="+")
    serve = commands.add_parser("serve", help="the same over HTTP")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=_port, default=8090)
    commands.add_parser("status", help="what was counted, what was sent")
    commands.add_parser(
        "verify", help="hold the files against the signed manifest and the log against its chain; what was checked"
    )
    send = commands.add_parser("sync", help="send the usage log (TOLLWAY_KEY holds the key)")
    send.add_argument("--url", default="", help="another address of the shop")
    return parser
