"""An invoice on paper: A4, as many pages as it takes, in English or Chinese. For billing.render_pdf.

Drawn by hand on a canvas so that the same invoice gives the same bytes. Every line shows its quantity, what of it was
free, its price and how the amount came about. Latin text is Helvetica; everything else goes through the CID font
STSong-Light, which viewers carry themselves, so no font file is shipped.
"""

import io
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

from tollway.kit.clock import day_of
from tollway.kit.errors import BadRequest
from tollway.kit.money import format_micros
from tollway.sell.accounts import Organization
from tollway.sell.billing_lines import Invoice, InvoiceLine

_CHINESE: Final = "STSong-Light"
_LATIN: Final = "Helvetica"
_BOLD: Final = "Helvetica-Bold"
_INK, _GREY, _RULE, _BAND = HexColor("#1b1f24"), HexColor("#667080"), HexColor("#d5dae1"), HexColor("#f3f5f8")
_ALARM = HexColor("#b3261e")
_LEFT: Final = 56.0
_RIGHT: Final = float(A4[0]) - 56
_TOP: Final = float(A4[1]) - 64
_BOTTOM: Final = 84.0
_FIRST_PAGE: Final = 450.0  # the height of lines a page takes: below the letterhead, and on the pages after it
_NEXT_PAGE: Final = 540.0
_QUANTITY, _FREE, _PRICE = _LEFT + 270, _LEFT + 332, _LEFT + 408  # right edges of the columns

_WORDS: Final[dict[str, dict[str, str]]] = {
    "en": {
        "invoice": "Invoice", "draft": "Draft, not yet payable", "finalised": "To be paid", "paid": "Paid",
        "void": "Void", "number": "Number", "none": "given when final", "issued": "Issued", "drafted": "Drafted",
        "period": "Period", "status": "Status", "bill_to": "Bill to", "description": "Description",
        "quantity": "Quantity", "free": "Of it free", "price": "Price", "amount": "Amount", "total": "Total",
        "wallet": "Paid from wallet", "due": "Amount due", "month": "month", "1M tokens": "1M tokens",
        "request": "request", "1k requests": "1k requests", "1M requests": "1M requests",
        "page": "Page {page} of {pages}", "days": "{n} days", "all": "all models",
        "nothing": "Nothing was used in this period.",
        "foot": "Amounts in {currency}. Each line is rounded once, half to even. Days and months are UTC.",
        "input_tokens": "Input tokens", "cached_tokens": "Cached input tokens", "output_tokens": "Output tokens",
        "images": "Images", "image": "image", "1k images": "1k images", "1M images": "1M images",
        "rows": "Table rows", "row": "row", "1k rows": "1k rows", "1M rows": "1M rows",
        "explanations": "Explanations", "explanation": "explanation", "1k explanations": "1k explanations",
        "1M explanations": "1M explanations",
        "audio_seconds": "Seconds of audio", "audio_second": "second", "1k audio_seconds": "1k seconds",
        "1M audio_seconds": "1M seconds", "characters": "Characters spoken", "character": "character",
        "1k characters": "1k characters", "1M characters": "1M characters",
        "training_tokens": "Training tokens",
        "requests": "Requests", "fee": "{plan}, monthly fee", "share": "{plan}, {days} of {of} days",
    },
    "zh": {
        "invoice": "账单", "draft": "草稿，尚不可付款", "finalised": "待付款", "paid": "已付款", "void": "已作废",
        "number": "账单编号", "none": "定稿时编号", "issued": "开具日期", "drafted": "草拟日期", "period": "账期",
        "status": "状态", "bill_to": "客户", "description": "项目", "quantity": "数量", "free": "其中免费",
        "price": "单价", "amount": "金额", "total": "合计", "wallet": "钱包已付", "due": "应付金额", "month": "月",
        "1M tokens": "百万 token", "request": "次请求", "1k requests": "千次请求", "1M requests": "百万次请求",
        "page": "第 {page} 页，共 {pages} 页", "days": "{n} 天", "all": "全部模型", "nothing": "本账期没有用量。",
        "foot": "金额单位：{currency}。每行只舍入一次（四舍六入五成双）。日期与月份均为 UTC。",
        "input_tokens": "输入 token", "cached_tokens": "缓存命中的输入 token", "output_tokens": "输出 token",
        "images": "图片", "image": "张图片", "1k images": "千张图片", "1M images": "百万张图片",
        "rows": "表格行", "row": "行", "1k rows": "千行", "1M rows": "百万行",
        "explanations": "解释", "explanation": "次解释", "1k explanations": "千次解释", "1M explanations": "百万次解释",
        "audio_seconds": "音频秒数", "audio_second": "秒", "1k audio_seconds": "千秒", "1M audio_seconds": "百万秒",
        "characters": "朗读字符", "character": "字符", "1k characters": "千字符", "1M characters": "百万字符",
        "training_tokens": "训练 token",
        "requests": "请求次数", "fee": "{plan}，月费", "share": "{plan}，{of} 天中的 {days} 天",
    },
}  # fmt: skip


def render(invoice: Invoice, organization: Organization, seller_name: str, locale: str = "en") -> bytes:
    """The bytes of the PDF. Raises BadRequest for a language there is no text for."""
    if locale not in _WORDS:
        raise BadRequest(f"There are no invoices in {locale!r}.", param="locale", hint="Use en or zh.")
    if _CHINESE not in pdfmetrics.getRegisteredFontNames():
        pdfmetrics.registerFont(UnicodeCIDFont(_CHINESE))
    pages = list(_pages(invoice.lines, _WORDS[locale]))
    into = io.BytesIO()
    canvas = Canvas(into, pagesize=A4, invariant=1, lang={"en": "en", "zh": "zh-CN"}[locale])
    sheet = _Sheet(canvas, _WORDS[locale], invoice)
    canvas.setTitle(f"{sheet.words['invoice']} {invoice.number or invoice.period}")
    canvas.setAuthor(seller_name)
    for number, lines in enumerate(pages, start=1):
        y = sheet.head(organization, seller_name) if number == 1 else sheet.short_head()
        y = sheet.table_head(y)
        for line in lines:
            y = sheet.line(line, y)
        if number == len(pages):
            sheet.sums(y)
        sheet.foot(number, len(pages))
        canvas.showPage()
    canvas.save()
    return into.getvalue()


class _Sheet:
    """Draws the parts of a page; `y` runs downwards from one to the next."""

    def __init__(self, canvas: Any, words: dict[str, str], invoice: Invoice) -> None:
        self.canvas, self.words, self.invoice = canvas, words, invoice

    def head(self, organization: Organization, seller_name: str) -> float:
        """Who, to whom, what and when."""
        words, invoice = self.words, self.invoice
        self.text(_LEFT, _TOP, _cut(seller_name, 15, 300), 15, font=_BOLD)
        self.text(_RIGHT, _TOP, words["invoice"], 21, right=True, font=_BOLD)
        y = _TOP - 48
        self.text(_LEFT, y, words["bill_to"], 8.5, ink=_GREY)
        for offset, shown in enumerate(_wrap(organization.name, 11, 240)[:3]):
            self.text(_LEFT, y - 16 - 14 * offset, shown, 11)
        below = y - 16 - 14 * min(3, len(_wrap(organization.name, 11, 240)))
        self.text(_LEFT, below, _cut(organization.billing_email, 9, 240), 9, ink=_GREY)
        dated = (
            ("issued", invoice.finalised_ms) if invoice.finalised_ms is not None else ("drafted", invoice.created_ms)
        )
        facts = (
            ("number", invoice.number or words["none"]),
            (dated[0], day_of(dated[1])),
            ("period", invoice.period),
            ("status", words[invoice.status]),
        )
        for offset, (label, value) in enumerate(facts):
            self.text(_RIGHT - 190, y - 16 * offset, words[label], 9, ink=_GREY)
            ink = _ALARM if label == "status" and invoice.status in ("draft", "void") else _INK
            self.text(_RIGHT, y - 16 * offset, value, 9.5, right=True, ink=ink)
        return y - 92

    def short_head(self) -> float:
        """The top of the pages after the first."""
        self.text(_LEFT, _TOP, f"{self.words['invoice']} {self.invoice.number or self.invoice.period}", 10, ink=_GREY)
        return _TOP - 26

    def table_head(self, y: float) -> float:
        """The names of the columns, on a band."""
        self.canvas.setFillColor(_BAND)
        self.canvas.rect(_LEFT - 8, y - 8, _RIGHT - _LEFT + 16, 24, stroke=0, fill=1)
        self.text(_LEFT, y, self.words["description"], 8.5, ink=_GREY)
        for edge, word in ((_QUANTITY, "quantity"), (_FREE, "free"), (_PRICE, "price"), (_RIGHT, "amount")):
            self.text(edge, y, self.words[word], 8.5, right=True, ink=_GREY)
        return y - 28

    def line(self, line: InvoiceLine, y: float) -> float:
        """One line of the invoice, its formula in grey below."""
        currency = self.invoice.currency
        title = _title(line, self.words)
        for offset, shown in enumerate(title):
            self.text(_LEFT, y - 12 * offset, shown, 9.5)
        quantity = f"{line.quantity:,}" if line.meter else self.words["days"].format(n=line.quantity)
        self.text(_QUANTITY, y, quantity, 9.5, right=True)
        if line.meter:
            self.text(_FREE, y, f"{line.free:,}", 9.5, right=True)
        self.text(_PRICE, y, format_micros(line.price_micros, currency), 9.5, right=True)
        self.text(_PRICE, y - 11, f"/ {self.words[line.unit]}", 7.5, right=True, ink=_GREY)
        self.text(_RIGHT, y, format_micros(line.amount_micros, currency), 9.5, right=True)
        y -= 12 * len(title)
        self.text(_LEFT, y, line.formula, 7.5, ink=_GREY)
        self.rule(y - 9, _LEFT)
        return y - 24

    def sums(self, y: float) -> None:
        """Total, what the wallet paid, and what is left to pay."""
        words, invoice = self.words, self.invoice
        if not invoice.lines:
            self.text(_LEFT, y, words["nothing"], 9.5, ink=_GREY)
            y -= 24
        rows = [("total", invoice.total_micros)]
        if invoice.paid_from_wallet_micros:
            rows.append(("wallet", -invoice.paid_from_wallet_micros))
        for word, micros in rows:
            self.text(_PRICE, y, words[word], 9.5, right=True, ink=_GREY)
            self.text(_RIGHT, y, format_micros(micros, invoice.currency), 9.5, right=True)
            y -= 17
        self.rule(y + 7, _PRICE - 80)
        self.text(_PRICE, y - 9, words["due"], 11, right=True, font=_BOLD)
        self.text(_RIGHT, y - 9, format_micros(invoice.due_micros, invoice.currency), 12, right=True, font=_BOLD)

    def foot(self, page: int, pages: int) -> None:
        """The rules of the house and the page's number."""
        self.rule(_BOTTOM - 22, _LEFT)
        self.text(_LEFT, _BOTTOM - 36, self.words["foot"].format(currency=self.invoice.currency), 7.5, ink=_GREY)
        self.text(_RIGHT, _BOTTOM - 36, self.words["page"].format(page=page, pages=pages), 7.5, right=True, ink=_GREY)

    def rule(self, y: float, left: float) -> None:
        """A thin line across."""
        self.canvas.setStrokeColor(_RULE)
        self.canvas.setLineWidth(0.6)
        self.canvas.line(left, y, _RIGHT, y)

    def text(
        self, x: float, y: float, text: str, size: float, *, right: bool = False, font: str = _LATIN, ink: Any = _INK
    ) -> None:
        """Text in one or both fonts; with `right`, ending at x."""
        self.canvas.setFillColor(ink)
        if right:
            x -= _width(text, size, font)
        for used, run in _runs(text, font):
            self.canvas.setFont(used, size)
            self.canvas.drawString(x, y, run)
            x += pdfmetrics.stringWidth(run, used, size)


def _pages(lines: tuple[InvoiceLine, ...], words: dict[str, str]) -> Iterator[list[InvoiceLine]]:
    """The lines cut into pages; the first has the letterhead, and each keeps room for the sums below it."""
    page: list[InvoiceLine] = []
    room = _FIRST_PAGE
    for line in lines:
        needed = 12 * len(_title(line, words)) + 24
        if needed > room:
            yield page
            page, room = [], _NEXT_PAGE
        page.append(line)
        room -= needed
    yield page


def _title(line: InvoiceLine, words: dict[str, str]) -> list[str]:
    return _wrap(_describe(line, words), 9.5, 190)[:3]


def _describe(line: InvoiceLine, words: dict[str, str]) -> str:
    if line.meter is None:
        name = "fee" if line.quantity == line.period_days else "share"
        return words[name].format(plan=line.plan, days=line.quantity, of=line.period_days)
    return f"{words[line.meter]}, {line.model or words['all']}"


def _in(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _drawable(text: str) -> str:
    """The text in characters the two fonts have: others lose their accents, or become a question mark."""
    return "".join(one if _in(one, "cp1252") or _in(one, "gbk") else _nearest(one) for one in text)


def _nearest(character: str) -> str:
    base = unicodedata.normalize("NFKD", character)[0]
    return base if _in(base, "cp1252") else "?"


def _runs(text: str, font: str) -> list[tuple[str, str]]:
    """The text cut where the font has to change: (font, part)."""
    parts = groupby(_drawable(text), key=lambda one: _in(one, "cp1252"))
    return [(font if latin else _CHINESE, "".join(part)) for latin, part in parts]


def _width(text: str, size: float, font: str = _LATIN) -> float:
    return float(sum(pdfmetrics.stringWidth(run, used, size) for used, run in _runs(text, font)))


def _cut(text: str, size: float, width: float) -> str:
    return (_wrap(text, size, width) or [""])[0]


def _wrap(text: str, size: float, width: float) -> list[str]:
    """Lines no wider than `width`, broken at a space or hyphen where one is near, else anywhere."""
    lines: list[str] = []
    while text:
        fits = len(text)
        while fits > 1 and _width(text[:fits], size) > width:
            fits -= 1
        if fits < len(text):
            edges = [text.rfind(" ", fits // 2, fits + 1), *(text.rfind(one, fits // 2, fits) + 1 for one in "-/_")]
            fits = max(edges) if max(edges) > 0 else fits
        lines.append(text[:fits].strip())
        text = text[fits:].strip()
    return lines
