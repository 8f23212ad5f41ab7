"""`tollway export …`: the shop's models where there is no gateway."""

import re
from pathlib import Path
from typing import Annotated

import typer

from tollway.faces.cli import find
from tollway.faces.cli.desk import Desk, command, group, quoted
from tollway.kit.errors import BadRequest

app = group("Take a model, or the shop, elsewhere.")


@command(app, "edge")
def edge(
    desk: Desk,
    model: Annotated[str, typer.Argument(help="A model, or NAME@VERSION.", metavar="MODEL")],
    org: Annotated[str, typer.Option("--org", help="The organization that pays for what the device uses.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.", metavar="DIR")],
    format_: Annotated[
        str, typer.Option("--format", help="onnx, onnx-int8, litert …; what is served by default.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="What to call the device.")] = "",
) -> None:
    """A folder that runs a model on a small device, offline, and counts what is used in a signed log."""
    from tollway.flows import export_edge

    with desk.shop.db.read() as conn:
        org_id = find.organization(conn, org).id
    made = export_edge.export(desk.shop, model, org_id, out, form=format_, name=name, url=desk.url)
    lines = [
        f"{made.model}@{made.version} ({made.format}) is in {made.folder}: {made.size_bytes / 1e6:.1f} MB, device {made.device}.",
        f"It needs Python 3.11 and {', '.join(made.needs)}. device.json holds its key: copy the folder, do not publish it.",
    ]
    if not desk.settings.public_url:
        lines.append(f"It sends its log to {desk.url}; elsewhere it needs the shop's address: set public_url first.")
    desk.answer(made, lambda: "\n".join(lines))
    program = f"python {quoted(made.folder)}/edge.py"
    example = Path(made.folder) / "model" / "example.json"
    if made.kind == "embedding":
        first = f'{program} embed "a text"'
    else:
        first = f"{program} classify @{quoted(str(example))}" if example.is_file() else f"{program} verify"
    desk.then(first, f"answers there; later, with TOLLWAY_KEY set: {program} sync")


@command(app, "kubernetes")
def kubernetes(
    desk: Desk,
    out: Annotated[Path, typer.Option("--out", help="A new folder.", metavar="DIR")],
    image: Annotated[str, typer.Option("--image", help="What the Dockerfile beside the manifests is pushed as.")],
    namespace: Annotated[str, typer.Option("--namespace", help="Where everything lives.")] = "tollway",
    gateways: Annotated[str, typer.Option("--gateways", help="How many, from-to.")] = "2-6",
    public_url: Annotated[str, typer.Option("--public-url", help="How buyers reach the shop.")] = "",
    storage_class: Annotated[str, typer.Option("--storage-class", help="One that offers ReadWriteMany.")] = "",
    no_ray: Annotated[bool, typer.Option("--no-ray", help="Models run beside each gateway.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Ray nodes at most.")] = 4,
    vllm: Annotated[
        list[str] | None,
        typer.Option("--vllm", help="A model for vLLM on GPUs; repeat for more.", metavar="NAME=MODEL"),
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="GPUs of each vLLM.")] = 1,
) -> None:
    """Manifests of the shop for Kubernetes: gateways that share PostgreSQL, a Ray cluster (KubeRay), vLLM."""
    from tollway.flows import export_kubernetes
    from tollway.kubernetes import Wanted

    low, _, high = gateways.partition("-")
    if not re.fullmatch("[0-9]{1,4}(-[0-9]{1,4})?", gateways):
        raise BadRequest(f"--gateways is a number or a range such as 2-6, not {gateways!r}.", param="gateways")
    wanted = Wanted(
        image=image,
        namespace=namespace,
        gateways_min=int(low),
        gateways_max=int(high or low),
        public_url=public_url,
        storage_class=storage_class,
        ray=not no_ray,
        ray_workers_max=workers,
        vllm=_vllm(vllm or []),
        gpus=gpus,
    )
    made = export_kubernetes.export(wanted, out)
    desk.answer(made, lambda: f"{made.objects} objects are in {made.folder}: {', '.join(made.files)}.")
    desk.then(f"less {quoted(made.folder)}/README.md")


def _vllm(given: list[str]) -> dict[str, str]:
    """`NAME=MODEL` each, a name once."""
    found: dict[str, str] = {}
    for text in given:
        name, _, model = (part.strip() for part in text.partition("="))
        if not name or not model or name in found:
            problem = "names a model twice" if name in found else "is not a --vllm"
            raise BadRequest(f"{text!r} {problem}.", hint="Write it as NAME=MODEL: --vllm big=ORG/MODEL.", param="vllm")
        found[name] = model
    return found
