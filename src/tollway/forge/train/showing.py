"""From which score a detector's boxes are shown: chosen on the validation rows, unless the recipe says it.

For `Case.save`: the weights are final, and what is chosen travels with the package's features into evaluation and service.
"""

from collections.abc import Mapping
from typing import Any, Final

from tollway.kit.said import say

_ROWS_MOST: Final = 2000


def settle(net: Any, options: Mapping[str, Any], prepared: Any, desk: Any) -> dict[str, Any]:
    """Sets the threshold of a detector's features to where F1 is best; {} for other models, for a recipe that names one
    and where there are no rows to choose on."""
    net = getattr(net, "wanted", net)  # a goal without labels was only a wrapper
    features = net.features
    if features.kind != "detection" or options.get("threshold") or not prepared.rows("validation"):
        return {}
    from tollway.forge.models import TorchPredictor, found, measure

    rows = measure.rows_of(prepared, "validation", _ROWS_MOST)
    best = found.best_threshold(TorchPredictor(net).predict([{"image": row["image"]} for row in rows]), rows)
    if best is None:
        desk.note(say("train.no_threshold", "Nothing was found on the validation rows: objects are shown from a score of "
                      "{threshold} on.", threshold=str(features.options["threshold"])))  # fmt: skip
        return {}
    features.options["threshold"], f1 = best
    desk.note(say("train.threshold", "Objects are shown from a score of {threshold} on: there F1 on {count} validation "
                  "rows is best ({f1}).", threshold=str(best[0]), count=len(rows), f1=f"{f1:.3f}"))  # fmt: skip
    return {"threshold": best[0], "threshold_f1": round(f1, 4)}
