"""The console: server-rendered pages for the seller and the buyer, in English and 简体中文. See `routes` and `PAGES`.

`routes(shop, playground=...)` is what the gateway mounts. `shop` gives `.db .clock .secrets .settings`, and may give
`.live()` (what the gateway knows by heart, see queries.NOTHING_LIVE) and `.describe_model(name, version)` (the package's card).
`playground` answers a chat for an organization: `async (org_id, body) -> Response` with OpenAI's event stream.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response
from starlette.routing import Route

from tollway.faces.console.fence import Recognised
from tollway.faces.console.pages import PAGES
from tollway.faces.console.visit import Console, Page

__all__ = ["PAGES", "Page", "routes"]


def routes(
    shop: Any,
    playground: Callable[[str, dict[str, Any]], Awaitable[Response]] | None = None,
    recognised: Recognised | None = None,
) -> list[Route]:
    """All routes of the console, each with the checks of its declared policy built in. `recognised` is told whose sessions
    were found good."""
    console = Console(shop, playground, recognised)
    return [
        Route(page.path, console.serve(page), methods=list(page.methods), name=f"console:{page.path}") for page in PAGES
    ]
