"""Every setting there is, in one table: name, kind, default, help. Read once, then frozen.

Order of authority: flag > `TOLLWAY_*` environment > `tollway.toml` in the home > default. `Settings.source(name)` says
where a value came from; `tollway config show` prints it.
"""

import copy
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tollway.kit.errors import BadRequest

ADDRESS = "gateway.url"  # in the home


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. `kind` is the Python type its text is parsed to."""

    name: str
    kind: type
    default: Any
    help: str
    secret: bool = False


TABLE = (
    Setting(
        "host", str, "127.0.0.1", "Address to listen on. Anything but a loopback address opens the shop to the network."
    ),
    Setting("port", int, 8080, "TCP port to listen on."),
    Setting(
        "public_url", str, "", "How buyers reach this shop, e.g. https://api.example.com; empty: http://host:port."
    ),
    Setting("database_url", str, "", "PostgreSQL URL; empty: SQLite in the home directory.", secret=True),
    Setting(
        "gateways",
        str,
        "one",
        "one: a second gateway on this database refuses to start. many: several share a PostgreSQL (docs/scale-out.md).",
    ),
    Setting(
        "lease_s",
        float,
        10.0,
        "With several gateways: one that gave no sign of life for so long, and has left the database, loses its slices.",
    ),
    Setting(
        "runtime",
        str,
        "",
        "Where replicas live; empty: this machine. ray://local, or ray://HOST:PORT of a Ray cluster (docs/scale-out.md).",
    ),
    Setting("log_level", str, "info", "debug, info, warning or error."),
    Setting(
        "request_log", int, 0, "1: every API request is a line of the log: id, route, status, organization, model."
    ),
    Setting("otel_endpoint", str, "", "Where traces go (OTLP over HTTP), e.g. http://localhost:4318; empty: nowhere."),
    Setting("currency", str, "USD", "Currency of new plans and of the machine's price (ISO 4217)."),
    Setting(
        "machine_price_per_hour",
        str,
        "",
        "What this machine costs an hour, in `currency`; empty: cores x a cloud list price.",
    ),
    Setting(
        "machine_watts", float, 0.0, "Watts this machine draws while it trains, for energy estimates; 0: cores x 3.5 W."
    ),
    Setting("training_life_days", int, 90, "Days over which the books spread what making a model cost."),
    Setting("body_bytes_max", int, 4 * 1024 * 1024, "Largest request body accepted; larger ones get 413."),
    Setting("file_bytes_max", int, 32 * 1024 * 1024, "Largest file that a buyer may upload for fine-tuning."),
    Setting("files_bytes_max", int, 512 * 1024 * 1024, "What the files of one organization may take together."),
    Setting(
        "batch_calls_at_once", int, 4, "Calls of one batch that are asked for at the same time, while nobody waits."
    ),
    Setting(
        "job_wait_s",
        float,
        86_400.0,
        "A training or adaptation that cannot go on (its model does not come up) is tried again for so long; then it fails "
        "and costs nothing. Batches have their 24 hours.",
    ),
    Setting("audio_bytes_max", int, 25 * 1024 * 1024, "Largest recording that may be sent for transcription."),
    Setting("audio_seconds_max", int, 1500, "Longest recording that is transcribed in one call."),
    Setting(
        "connections_max",
        int,
        1000,
        "Open client connections; a further one takes the place of one that asks for nothing, else is closed.",
    ),
    Setting(
        "keyless_rps",
        float,
        50.0,
        "Requests a second that one address may make without a key or a sign-in, ten seconds' worth at once; 0: no limit.",
    ),
    Setting(
        "proxies",
        str,
        "",
        "Addresses or networks of your proxies, with commas: their X-Forwarded-For says who asks. Others' is not believed.",
    ),
    Setting("header_timeout_s", float, 5.0, "A client must have sent its headers by then."),
    Setting("body_timeout_s", float, 15.0, "A client must have sent its body by then."),
    Setting("call_timeout_s", float, 300.0, "A call that has not finished by then is stopped."),
    Setting("queue_max", int, 256, "Calls that may wait for a replica of one model; further ones get 503."),
    Setting("queue_timeout_s", float, 60.0, "A call that waited this long for a replica gets 503."),
    Setting("replicas_min", int, 1, "Replicas of one model on this machine, at least; 0: none while nobody calls it."),
    Setting("replicas_max", int, 1, "Replicas of one model on this machine, at most; they share its cores."),
    Setting(
        "replica_wait_s", float, 0.5, "Another replica is started when calls would wait longer than this on average."
    ),
    Setting("replica_idle_s", float, 300.0, "With replicas_min 0: a model that nobody called for so long is unloaded."),
    Setting(
        "replica_growth_max",
        float,
        3.0,
        "A replica is renewed when it takes so many times the memory it took when loaded; 0: never.",
    ),
    Setting("replica_memory_bytes", int, 0, "What one replica may take besides its weights; 0: what the machine has."),
    Setting(
        "memory_bytes_max",
        int,
        0,
        "What all replicas may take together; the model called longest ago is unloaded for another one. 0: no limit.",
    ),
    Setting("replica_slots", int, 8, "Calls one replica works on at the same time."),
    Setting("replica_threads", int, 0, "CPU threads of a replica; 0: the machine's cores less one, at least one."),
    Setting("replica_context_tokens", int, 16384, "Tokens of context a replica keeps for all its slots together."),
    Setting("output_tokens_default", int, 1024, "Bound on the answer when the caller names none."),
    Setting("refresh_s", float, 0.25, "How often the gateway looks for changed keys, plans and wallets."),
    Setting("session_hours", int, 12, "How long a console session lasts without a new login."),
)
_BY_NAME = {setting.name: setting for setting in TABLE}


class Settings:
    """The frozen settings of one process: `settings.port`, `settings.home`. Raises BadRequest listing all problems."""

    def __init__(
        self,
        home: Path,
        flags: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        environment = os.environ if environment is None else environment
        problems: list[str] = []
        filed = _read_file(home / "tollway.toml", problems)
        for setting in TABLE:
            candidates = (
                ((flags or {}).get(setting.name), f"--{setting.name.replace('_', '-')}"),
                (environment.get(f"TOLLWAY_{setting.name.upper()}"), f"TOLLWAY_{setting.name.upper()}"),
                (filed.get(setting.name), "tollway.toml"),
                (setting.default, "default"),
            )
            raw, source = next((value, source) for value, source in candidates if value is not None)
            try:
                self._values[setting.name] = setting.kind(raw)
                self._sources[setting.name] = source
            except (TypeError, ValueError):
                problems.append(f"{setting.name} = {raw!r} ({source}) is not {setting.kind.__name__}")
        if problems:
            raise BadRequest(
                "These settings cannot be used: " + "; ".join(problems) + ".", hint="See `tollway config show`."
            )

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def but(self, **values: Any) -> "Settings":
        """The same with some other values."""
        other = copy.copy(self)
        other._values = self._values | values
        return other

    def source(self, name: str) -> str:
        """Where the value of `name` came from: a flag, a variable, the file, or the default."""
        return self._sources[name]

    def rows(self) -> list[dict[str, Any]]:
        """The whole table with values and sources, secrets covered; for `config show`."""
        return [
            {
                "name": setting.name,
                "value": "(set)" if setting.secret and self._values[setting.name] else self._values[setting.name],
                "source": self._sources[setting.name],
                "help": setting.help,
            }
            for setting in TABLE
        ]

    @property
    def url_of_database(self) -> str:
        """The configured database, or the SQLite file in the home."""
        return self._values["database_url"] or f"sqlite:///{self.home / 'tollway.db'}"

    @property
    def url(self) -> str:
        """The address to show people, without a trailing slash; `reached_at` says where the shop of this home is now."""
        host = str(self._values["host"])
        shown = f"[{host}]" if ":" in host else host  # an IPv6 address stands in brackets
        return str(self._values["public_url"] or f"http://{shown}:{self._values['port']}").rstrip("/")

    @property
    def reached_at(self) -> str:
        """Where the shop of this home is reached: what its gateway noted (`--port` is known to nobody else), or `url`."""
        try:
            noted = (self.home / ADDRESS).read_text(encoding="utf-8").strip()
        except OSError:
            noted = ""
        return noted or self.url


def _read_file(path: Path, problems: list[str]) -> dict[str, Any]:
    """The home's tollway.toml; unknown names are problems, so that a typo is not silently ignored."""
    if not path.exists():
        return {}
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path} is not valid TOML: {error}")
        return {}
    problems.extend(f"{path} sets {name!r}, which is not a setting" for name in found if name not in _BY_NAME)
    return found
