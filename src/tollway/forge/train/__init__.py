"""Training: how a net is trained, whatever it is.

    trained = train.fit(recipe.train, recipe.model, task, prepared, desk)      # the step of a run: desk.out is the model
    result = loop.run(net, batches, plan, desk, validation=held_out)           # anything else that trains (compress, adapt)

Nothing here imports torch before a step really runs.
"""

from typing import TYPE_CHECKING

from tollway.forge.train.asked import check, makes_a_base
from tollway.forge.train.plan import Plan
from tollway.kit import lazy

if TYPE_CHECKING:
    from tollway.forge.train.batches import Batches
    from tollway.forge.train.fitting import Trained, fit

__all__ = ["Batches", "Plan", "Trained", "check", "fit", "makes_a_base"]

_LAZY = {"Batches": "batches", "Trained": "fitting", "fit": "fitting"}
__getattr__ = lazy.parts(__name__, _LAZY)
