"""Plan terms as a form and back: what a person typed, the Terms it means, and the difference between two Terms."""

from dataclasses import dataclass, field

from tollway.faces.console.visit import Visit
from tollway.kit.errors import BadRequest
from tollway.kit.money import parse_micros, to_decimal
from tollway.sell import catalog

LIMITS = ("rpm", "tpm", "concurrency", "monthly_tokens")
SERVICE = ("batch_percent", "weight", "timeout_ms")  # numbers that say how calls are served
CHARGES_MAX = 60


@dataclass(slots=True)
class FormTerms:
    """The texts of the form's fields, exactly as they are to be shown again."""

    currency: str
    flat_fee: str = "0"
    overage: str = "wallet"
    aborted: str = "bill"
    priority: str = "standard"
    unpriced: str = "refuse"
    service: dict[str, str] = field(
        default_factory=lambda: {name: str(getattr(catalog.Terms(), name)) for name in SERVICE}
    )
    models: str = "*"
    limits: dict[str, str] = field(default_factory=lambda: dict.fromkeys(LIMITS, ""))
    charges: list[dict[str, str]] = field(default_factory=list)

    @staticmethod
    def empty(currency: str) -> "FormTerms":
        """A sensible start: three charges waiting for their prices."""
        meters = ("input_tokens", "cached_tokens", "output_tokens")
        return FormTerms(
            currency, charges=[{"meter": meter, "model": "*", "price": "", "included": ""} for meter in meters]
        )


def written_terms(terms: catalog.Terms) -> FormTerms:
    """Terms as texts, to be edited."""
    return FormTerms(
        currency=terms.currency,
        flat_fee=_plain(terms.flat_fee_micros),
        overage=terms.overage,
        aborted=terms.aborted,
        priority=terms.priority,
        unpriced=terms.unpriced,
        service={name: str(getattr(terms, name)) for name in SERVICE},
        models=", ".join(terms.models),
        limits={name: _blank(getattr(terms.limits, name)) for name in LIMITS},
        charges=[
            {"meter": one.meter, "model": one.model, "price": _plain(one.price_micros), "included": str(one.included)}
            for one in terms.charges
        ],
    )


def read_terms(visit: Visit, currency: str) -> tuple[FormTerms, catalog.Terms | None, list[str]]:
    """What was typed, the Terms it means (None when it cannot be read), and every problem in words."""
    form = FormTerms(
        currency=currency,
        flat_fee=visit.field("flat_fee"),
        overage=visit.field("overage"),
        aborted=visit.field("aborted"),
        priority=visit.field("priority") or "standard",
        unpriced=visit.field("unpriced") or "refuse",
        service={name: visit.field(name) for name in SERVICE},
        models=visit.field("models"),
        limits={name: visit.field(name) for name in LIMITS},
        charges=_typed_charges(visit),
    )
    problems: list[str] = []
    limits = {name: _whole(visit, text, visit.t(f"plan.{name}"), problems) for name, text in form.limits.items()}
    service = {name: _whole(visit, text, visit.t(f"plan.{name}"), problems) for name, text in form.service.items()}
    charges = [_charge(visit, row, place, problems) for place, row in enumerate(form.charges, start=1)]
    plain = {
        "currency": currency,
        "flat_fee_micros": _amount(visit, form.flat_fee or "0", visit.t("plan.flat_fee"), problems),
        "overage": form.overage,
        "aborted": form.aborted,
        "models": [name.strip() for name in form.models.replace("，", ",").split(",") if name.strip()],
        "limits": limits,
        "charges": charges,
        "priority": form.priority,
        "unpriced": form.unpriced,
        **{name: value for name, value in service.items() if value is not None},
    }
    if problems:
        return form, None, problems
    try:
        return form, catalog.parse_terms(plain), []
    except BadRequest as error:
        return form, None, [visit.tell(error)]


def differences(visit: Visit, old: catalog.Terms | None, new: catalog.Terms) -> list[tuple[str, str, str]]:
    """What changes: (name, before, after) for everything that is not the same."""
    before = _lines(visit, old) if old else {}
    after = _lines(visit, new)
    names = [*after, *(name for name in before if name not in after)]
    none = visit.t("plan.none")
    rows = [(name, before.get(name, none), after.get(name, none)) for name in names]
    return [row for row in rows if row[1] != row[2] or (old is None and row[2] != none)]


def _lines(visit: Visit, terms: catalog.Terms) -> dict[str, str]:
    """Terms as named lines for people."""
    t, fmt = visit.t, visit.fmt
    none = t("plan.none")
    lines = {
        t("plan.flat_fee"): t("plan.a_month", price=fmt.exact(terms.flat_fee_micros, terms.currency)),
        t("plan.overage"): t(f"overage.{terms.overage}"),
        t("plan.aborted"): t(f"aborted.{terms.aborted}"),
        t("plan.unpriced"): t(f"unpriced.{terms.unpriced}"),
        t("plan.priority"): t(f"priority.{terms.priority}"),
        **{t(f"plan.{name}"): fmt.number(getattr(terms, name)) for name in SERVICE},
        t("plan.models"): t("plan.all_models") if terms.models == ("*",) else ", ".join(terms.models),
    }
    for name in LIMITS:
        value = getattr(terms.limits, name)
        lines[t(f"plan.{name}")] = none if value is None else fmt.number(value)
    for charge in terms.charges:
        model = t("plan.all_models") if charge.model == "*" else charge.model
        price = t("plan.per_million", price=fmt.exact(charge.price_micros, terms.currency))
        free = t("plan.free_units", units=fmt.number(charge.included)) if charge.included else ""
        lines[f"{t(f'meter.{charge.meter}')} · {model}"] = f"{price} {free}".strip()
    return lines


def _typed_charges(visit: Visit) -> list[dict[str, str]]:
    """The rows of the price table; rows without a price and free units are blank ones."""
    columns = [visit.fields(f"charge_{name}") for name in ("meter", "model", "price", "included")]
    rows = [dict(zip(("meter", "model", "price", "included"), row, strict=True)) for row in zip(*columns, strict=False)]
    return [row for row in rows if row["price"] or row["included"]][:CHARGES_MAX]


def _charge(visit: Visit, row: dict[str, str], place: int, problems: list[str]) -> dict[str, object]:
    where = visit.t("plan.price_row", place=place)
    return {
        "meter": row["meter"],
        "model": row["model"] or "*",
        "price_micros": _amount(visit, row["price"] or "0", where, problems),
        "included": _whole(visit, row["included"], where, problems) or 0,
    }


def _amount(visit: Visit, text: str, where: str, problems: list[str]) -> int:
    try:
        micros = parse_micros(text.replace(",", "").replace("，", ""))
    except ValueError:
        problems.append(f"{where}: {visit.t('error.amount', value=text[:40])}")
        return 0
    if micros < 0:
        problems.append(f"{where}: {visit.t('error.amount_range')}")
    return micros


def _whole(visit: Visit, text: str, where: str, problems: list[str]) -> int | None:
    digits = text.replace(",", "").replace("，", "").replace("_", "")
    if not digits:
        return None
    if not digits.isascii() or not digits.isdigit() or len(digits) > 15:
        problems.append(f"{where}: {visit.t('error.whole', value=text[:40])}")
        return None
    return int(digits)


def _plain(micros: int) -> str:
    return f"{to_decimal(micros).normalize():f}"


def _blank(value: int | None) -> str:
    return "" if value is None else str(value)
