"""From a recipe's [model] and the data to a net, and from a folder back to one."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from tollway.forge.models import adapters, bases, ensemble, folders, options
from tollway.forge.models.net import ModelSpec, Net
from tollway.inference import Features, load_features
from tollway.kit.errors import BadRequest


def create(part: options.Part, task: str, features: Features, seed: int, home: Path | None = None) -> Net:
    """A fresh net for the recipe's [model] (or a pre-trained one with a fresh head). The same seed, the same weights.
    With `home`, a base may be a package on the shelf there."""
    name, chosen = options.read(part, task, home)
    spec = ModelSpec(name, task, chosen.model_dump(), list(features.labels))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mine = bases.own(part.base, home) if part.base else None
        spec.parent = part.base
        if mine is not None and name != options.BASE:
            net = _grown(build(spec, features), mine)
        elif part.base:
            net = _from_base(spec, features, home)
        else:
            net = build(spec, features)
    spec.parameters = net.count()
    return net


def _from_base(spec: ModelSpec, features: Features, home: Path | None = None) -> Net:
    base = bases.find(spec.parent, home)
    if spec.task in options.LANGUAGE_TASKS:
        from tollway.forge.models import lm

        return lm.create_from(spec, features, base)
    if spec.parent in options.NET_BASES:
        from tollway.forge.models import mobilenet

        return mobilenet.create_from(spec, features, base)
    from tollway.forge.models import pretrained

    return pretrained.create(spec, features, base)


def _grown(net: Net, folder: Path) -> Net:
    """A net with all weights of an earlier one of ours that fit: everything but a head for other answers."""
    state = folders.read_weights(bases.checked(folder) / folders.WEIGHTS)
    own = net.state_dict()
    scale = {name for name in own if name.endswith("scale")}  # of the numbers to predict: those of the new rows
    fitting = {
        name: one for name, one in state.items() if name in own and own[name].shape == one.shape and name not in scale
    }
    if not fitting:
        raise BadRequest(f"No weight of {folder.name} fits a {net.spec.architecture} for these rows.", param="base")
    net.load_state_dict(fitting, strict=False)
    return net


def build(spec: ModelSpec, features: Features) -> Net:
    """The architecture of a spec with fresh weights."""
    module, _, function = options.of(spec.architecture).builder.partition(":")
    made = getattr(importlib.import_module(f"tollway.forge.models.{module}"), function)
    return cast(Net, made(spec, features))


def save(net: Net, folder: Path) -> None:
    """Write model.toml, model.safetensors, the features, and what a Hugging Face model or adapter needs besides."""
    folder.mkdir(parents=True, exist_ok=True)
    net = getattr(net, "wanted", net)  # a goal without labels was only a wrapper
    net.spec.parameters = net.count()
    write: Any = getattr(net, "save_weights", None)
    if isinstance(net, ensemble.Ensemble):
        ensemble.save(net, folder, save)
    elif net.adapter is not None:
        adapters.save(net, folder)
        config: Any = getattr(net, "save_config", None)
        if config is not None:
            config(folder)
        if not bases.packaged(net.spec.parent):  # then nobody else has the weights that the adapter sits on
            folders.write_state(adapters.base_state(net), folder / folders.WEIGHTS)
    elif write is not None:
        write(folder)
    else:
        folders.write_weights(net, folder / folders.WEIGHTS)
    net.features.save(folder)
    folders.write_spec(net.spec, folder)


def load(folder: Path, merged: bool = True, home: Path | None = None) -> Net:
    """The net that `save` wrote, in evaluation mode. A LoRA is added into its base unless `merged` is false; the base is
    looked for in `home`."""
    folder = Path(folder)
    spec = folders.read_spec(folder)
    features = load_features(folder)
    if (folder / adapters.CONFIG).is_file():
        whole = (folder / folders.WEIGHTS).is_file()
        below = _plain(spec, features, folder) if whole else _from_base(spec, features, home)
        net = adapters.attach(below, folder)
        return (adapters.merge(net) if merged else net).eval()
    return _plain(spec, features, folder)


def untrained(folder: Path, home: Path | None = None) -> Net:
    """The base of a language model made here, before it learnt anything new, with the same features."""
    return _from_base(folders.read_spec(folder), load_features(folder), home).eval()


def _plain(spec: ModelSpec, features: Features, folder: Path) -> Net:
    if spec.architecture == ensemble.NAME:
        return ensemble.load(spec, features, folder, load)
    if spec.architecture == options.BASE:
        from tollway.forge.models import lm, pretrained

        if spec.task in options.LANGUAGE_TASKS:
            return lm.load(spec, features, folder).eval()
        return pretrained.load(spec, features, folder).eval()
    spec.options = _complete(spec)
    state = folders.read_weights(folder / folders.WEIGHTS)
    if spec.options.get("vectors"):
        spec.options = {**spec.options, "vectors": ""}  # the weights hold them
        _known_width(spec, state)
    net = build(spec, features)
    folders.fit_shapes(net, state)
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BadRequest(f"The weights of {folder.name} do not fit its model.toml: {str(error)[:300]}") from error
    return net.eval()


def _complete(spec: ModelSpec) -> dict[str, Any]:
    known: Mapping[str, Any] = spec.options
    return options.parse(options.of(spec.architecture).options, known).model_dump()


def _known_width(spec: ModelSpec, state: Mapping[str, torch.Tensor]) -> None:
    if "embedding.weight" in state and "embedding" in spec.options:
        spec.options["embedding"] = int(state["embedding.weight"].shape[1])


def trainable(net: nn.Module) -> int:
    """Parameters that training changes."""
    return sum(one.numel() for one in net.parameters() if one.requires_grad)
