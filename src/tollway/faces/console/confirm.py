"""Asking before an act that cannot be taken back, with its effect in figures; and reading amounts from forms."""

from collections.abc import Mapping, Sequence

from starlette.responses import Response

from tollway.faces.console.visit import Visit
from tollway.kit.errors import BadRequest
from tollway.kit.money import EXPONENTS, parse_micros


def confirmation(
    visit: Visit,
    title: str,
    effect: str,
    facts: Sequence[tuple[str, str]],
    kept: Mapping[str, str],
    yes: str,
    back: str,
    danger: bool = False,
    warnings: Sequence[str] = (),
) -> Response:
    """A page with the effect and one button; it posts to the same address with `confirmed=yes` and the kept fields."""
    return visit.page(
        "confirm.html", title=title, effect=effect, facts=facts, kept=kept, yes=yes, back=visit.url(back), danger=danger,
        warnings=warnings,
    )  # fmt: skip


def money_field(visit: Visit, name: str, currency: str) -> int:
    """An amount a person typed, in that currency's decimals; a full-width or grouped number is a typing habit, not an error."""
    text = visit.field(name).replace(",", "").replace("，", "").replace("．", ".")
    try:
        micros = parse_micros(text)
    except ValueError as error:
        raise BadRequest(visit.t("error.amount", value=text[:40]), param=name) from error
    exponent = EXPONENTS.get(currency, 2)
    if micros % 10 ** (6 - exponent):
        raise BadRequest(visit.t("error.amount_decimals", decimals=exponent), param=name)
    if micros < 1 or micros > 10**13:
        raise BadRequest(visit.t("error.amount_range"), param=name)
    return micros
