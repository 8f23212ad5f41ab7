"""The invoice on paper: all figures, in both languages, on as many pages as it takes, the same bytes each time."""

import io
import re

import msgspec
import pypdf
import pytest

from tollway.kit.errors import BadRequest
from tollway.sell import billing
from tollway.sell.accounts import Organization
from tollway.sell.billing_lines import Invoice, bill
from tollway.sell.catalog import Charge, PlanVersion, Subscription, Terms

TERMS = Terms(
    flat_fee_micros=20_000_000,
    overage="wallet",
    charges=(
        Charge(meter="input_tokens", price_micros=150_000, included=1_000_000),
        Charge(meter="cached_tokens", price_micros=37_500),
        Charge(meter="output_tokens", model="large", price_micros=600_000),
        Charge(meter="requests", price_micros=2_000_000_000),
    ),
)
USE = {"input_tokens": 3_456_789, "cached_tokens": 8_000_000, "output_tokens": 50_000_000, "requests": 1_234}
ACME = Organization("org_1", "Acme 示例公司", "billing@acme.example", 0, None)
JANUARY = 1_767_225_600_000


def invoice(status: str = "finalised", number: str | None = "TW-2026-000042") -> Invoice:
    subscription = Subscription("sub_1", "org_1", "pv_1", JANUARY + 17 * 86_400_000, None)
    made = bill(
        PlanVersion("pv_1", "plan_1", "team", "Team", 3, TERMS, 0),
        subscription,
        "2026-01",
        [("large", USE)],
        {},
        3 * 10**13,
    )
    return Invoice(
        id="inv_1", number=number, org_id="org_1", subscription_id="sub_1", plan_version_id="pv_1", period="2026-01",
        currency="USD", status=status, lines=made.lines, total_micros=made.total_micros, due_micros=made.due_micros,
        created_ms=JANUARY + 31 * 86_400_000, finalised_ms=JANUARY + 32 * 86_400_000 if number else None, paid_ms=None,
    )  # fmt: skip


def text_of(content: bytes) -> str:
    """All text of all pages, spaces and line ends evened out."""
    pages = pypdf.PdfReader(io.BytesIO(content)).pages
    return re.sub(r"\s+", "", "".join(page.extract_text() for page in pages))


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_every_figure_is_on_the_paper(locale: str) -> None:
    one = invoice()
    text = text_of(billing.render_pdf(one, ACME, "The Shop", locale))
    for line in one.lines:
        assert line.formula.replace(" ", "") in text
    for shown in (
        "TW-2026-000042",
        "2026-01",
        "2026-02-02",
        "Acme示例公司",
        "billing@acme.example",
        "TheShop",
        "large",
    ):
        assert shown in text
    # 9.03 fee + 0.37 + 0.30 + 30.00 + 2.47 = 42.17, of which the wallet paid 30.00
    for shown in ("$9.03", "$0.37", "$0.30", "$30.00", "$2.47", "$42.17", "-$30.00", "$12.17", "$0.0375", "$0.002"):
        assert shown in text


def test_each_language_has_its_own_words() -> None:
    english, chinese = (text_of(billing.render_pdf(invoice(), ACME, "S", locale)) for locale in ("en", "zh"))
    for word in (
        "Invoice",
        "Amountdue",
        "Paidfromwallet",
        "Inputtokens,allmodels",
        "14of31days",
        "Tobepaid",
        "Page1of1",
    ):
        assert word in english and word not in chinese
    for word in ("账单", "应付金额", "钱包已付", "全部模型", "31天中的14天", "待付款", "第1页，共1页"):
        assert word in chinese and word not in english
    with pytest.raises(BadRequest):
        billing.render_pdf(invoice(), ACME, "S", "fr")


def test_a_draft_says_that_it_is_one() -> None:
    text = text_of(billing.render_pdf(invoice("draft", None), ACME, "S"))
    assert "Draft,notyetpayable" in text and "givenwhenfinal" in text and "Drafted2026-02-01" in text


def test_the_same_invoice_gives_the_same_bytes() -> None:
    assert billing.render_pdf(invoice(), ACME, "S", "zh") == billing.render_pdf(invoice(), ACME, "S", "zh")


def test_a_long_invoice_takes_more_pages_and_loses_no_line() -> None:
    one = invoice()
    long = msgspec.structs.replace(one, lines=one.lines * 12)
    content = billing.render_pdf(long, ACME, "S")
    pages = pypdf.PdfReader(io.BytesIO(content)).pages
    assert len(pages) > 2
    assert text_of(content).count("1,234×$0.002=$2.47") == 12
    assert text_of(content).count("Amountdue") == 1


def test_an_invoice_of_nothing_and_a_name_in_any_script_still_print() -> None:
    empty = msgspec.structs.replace(invoice(), lines=(), total_micros=0, due_micros=0)
    odd = Organization("org_1", "🚀 مرحبا Łódź Ελλάδα " + "x" * 190, "", 0, None)
    text = text_of(billing.render_pdf(empty, odd, "商店" * 90))
    assert "Nothingwasusedinthisperiod." in text and "$0.00" in text
