"""Where back-translation finds its translator: a chat model that this shop sells, one at a URL, or two translation models.

For the data step of a run and `tollway dataset augment`: `forge.data` knows texts and languages, this knows the shop.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tollway.forge.data import augment
from tollway.kit.errors import BadRequest, NotFound
from tollway.serve import models
from tollway.shop import Shop

_KEY: Final = "TOLLWAY_KEY"
_ROWS: Final = 64


def opener(shop: Shop) -> augment.Opener:
    """From a step's options to its translator; raises BadRequest or NotFound with what to do."""

    def opened(options: Mapping[str, str]) -> augment.Translate:
        if options.get("there"):
            return _there_and_back(shop, options)
        return augment.reached(options if options.get("url") else {**options, **_own(shop, options)})

    return opened


def _own(shop: Shop, options: Mapping[str, str]) -> dict[str, str]:
    """The URL and key of a chat model that this shop offers: it is called, and paid for, like any buyer's."""
    name = options["model"]
    with shop.db.read() as conn:
        offered = {one.name for one in models.list_models(conn) if one.kind == "chat"}
    if name not in offered:
        raise NotFound(
            f"This shop offers no chat model {name!r}.",
            hint=f"It offers {', '.join(sorted(offered)) or 'none'}; or name a server: url=http://HOST/v1.",
        )
    return {"url": f"{shop.settings.reached_at}/v1", "key_env": options.get("key_env") or _KEY}


def _there_and_back(shop: Shop, options: Mapping[str, str]) -> augment.Translate:
    ways = {way: _translation_model(shop, options[way]) for way in ("there", "back")}

    def translate(texts: Sequence[str], language: str) -> list[str]:
        predictor = ways["there" if language == options["language"] else "back"]
        found: list[str] = []
        for start in range(0, len(texts), _ROWS):
            answers = predictor.predict([{"source": text} for text in texts[start : start + _ROWS]])
            found += [str(answer["text"]) for answer in answers]
        return found

    return translate


def _translation_model(shop: Shop, name: str) -> Any:
    """A Predictor: a package on the shelf in the format it is served in, else a base as it is."""
    from tollway.forge.evaluate import opening

    if not Path(name).expanduser().is_dir() and "/" not in name:
        package = shop.store.get(*name.split("@", 1))
        if package.manifest.kind != "translation":
            raise BadRequest(f"{package.ref} does not translate: it is for {package.manifest.kind}.")
        shop.store.verify(package).require()
        return opening.served(package.folder, home=shop.settings.home)[0]
    return _base(shop, name)


def _base(shop: Shop, name: str) -> Any:
    import pyarrow as pa

    from tollway.forge import models as nets
    from tollway.forge.recipe import Model

    part = Model(base=name)
    rows = pa.table({"source": ["…"], "target": ["…"]})  # a base brings its own tokenizer: nothing is learnt from them
    features = nets.fit_features(part, "translation", rows, shop.settings.home)
    return nets.TorchPredictor(nets.create(part, "translation", features, 0, shop.settings.home).eval())
