"""What personal data looks like in English and Chinese text, kind by kind: a pattern, then a checksum or a range.

No pattern uses `\\b`: between a Chinese character and a digit there is no word boundary, and a phone number after 电话 would
be missed. All use look-arounds instead. Offsets are those of the text; full-width digits, letters and signs are read as
plain ones (one character each, so that offsets stay).
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tollway.guard.masking import checksums, people

KINDS: Final = ("email", "phone", "id_card", "bank_card", "iban", "ssn", "passport", "plate", "ip", "account", "birthday",
                "address", "name")  # fmt: skip
HINTS: Final = ("address", "name")
"""Kinds without a checksum or a fixed form: reported, and masked, but apart from the certain ones."""


@dataclass(frozen=True, slots=True)
class Found:
    """A place in a text."""

    kind: str
    start: int
    end: int


_WIDE: Final = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20, 0x2010: 0x2D, 0x2011: 0x2D, 0x2012: 0x2D,
                                                                        0x2013: 0x2D, 0x2014: 0x2D, 0x2212: 0x2D, 0xA0: 0x20}  # fmt: skip
_HAS_WIDE: Final = re.compile("[\uff01-\uff5e\u3000\u2010-\u2014\u2212\u00a0]")
_NO_WORD, _END = r"(?<![A-Za-z0-9_])", r"(?![A-Za-z0-9_])"
_NO_DIGIT, _DIGITS_END = r"(?<![0-9A-Za-z_.])", r"(?![0-9A-Za-z_])(?!\.[0-9])"
_SEP: Final = r"[ \-]?"

_EMAIL: Final = re.compile(
    r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9](?:[A-Za-z0-9._%+\-]{0,62}[A-Za-z0-9_%+\-])? ?@ ?(?:[A-Za-z0-9]"
    r"(?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])? ?\. ?){1,6}[A-Za-z]{2,24}(?![A-Za-z0-9\-])"
)
_MOBILE: Final = re.compile(
    rf"(?<![0-9A-Za-z_.])(?<![0-9]-)(?:(?:\+|00)?86{_SEP})?\(?1{_SEP}[3-9](?:{_SEP}[0-9]){{9}}\)?"
    rf"(?![0-9A-Za-z_])(?!-[0-9])(?!\.[0-9])"
)
_LANDLINE: Final = re.compile(
    rf"{_NO_DIGIT}(?:(?:\+|00)86{_SEP})?\(?(?:0(?:10|2[0-9]|[3-9][0-9]{{2}}))\)?[ \-]{{0,2}}[2-9][0-9]{{2,3}}{_SEP}[0-9]{{4}}"
    rf"(?:[ \-转]+[0-9]{{1,5}})?{_DIGITS_END}"
)
_FREE_CALL: Final = re.compile(rf"{_NO_DIGIT}[48]00[ \-][0-9]{{3,4}}[ \-]?[0-9]{{3,4}}{_DIGITS_END}")
_ABROAD: Final = re.compile(
    r"(?<![0-9A-Za-z_+])(?:\+|00)[1-9][0-9]{0,2}[ \-.]?(?:\([0-9]{1,5}\)[ \-.]?)?[0-9](?:[ \-.]?[0-9]){5,12}"
    r"(?![0-9A-Za-z_])"
)
_AMERICAN: Final = re.compile(
    rf"(?<!\+){_NO_DIGIT}(?:\+?1[ \-.])?(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}[ \-.])[2-9][0-9]{{2}}[ \-.][0-9]{{4}}{_DIGITS_END}"
)
_ID: Final = re.compile(rf"(?<![0-9A-Za-z_])[1-8](?:{_SEP}[0-9]){{16}}{_SEP}[0-9Xx](?![0-9A-Za-z_])")
_ID_OLD: Final = re.compile(r"(?:身份证|证件)[^0-9]{0,8}([1-8][0-9]{14})(?![0-9])")
_CARD: Final = re.compile(r"(?<![0-9A-Za-z_])[2-6](?:[ \-]?[0-9]){12,18}(?![0-9A-Za-z_])(?!-[0-9])")
_IBAN: Final = re.compile(rf"{_NO_WORD}[A-Z]{{2}}[0-9]{{2}}(?: ?[A-Z0-9]{{4}}){{2,7}}(?: ?[A-Z0-9]{{1,3}})?{_END}")
_SSN: Final = re.compile(r"(?<![0-9A-Za-z_\-])([0-9]{3})([ \-])([0-9]{2})\2([0-9]{4})(?![0-9A-Za-z_\-])")
_PASSPORT: Final = re.compile(
    rf"{_NO_WORD}(?:E[A-HJ-NP-Z]?[0-9]{{7,8}}|[GDSP][0-9]{{8}}|1[45][0-9]{{7}}(?=[^0-9]{{0,4}}护照)){_END}"
)
_PASSPORT_SAID: Final = re.compile(
    r"(?:护照(?:号码?|号)?|(?i:passport(?: (?:no|number|num))?))[^A-Za-z0-9\n]{0,6}([A-Z]{0,2}[0-9]{6,9})"
    r"(?![0-9A-Za-z])"
)
_PLATE: Final = re.compile(
    "[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使][A-HJ-NP-Za-hj-np-z][·•. \\-]?"
    "(?:[DFdf][A-HJ-NP-Za-hj-np-z0-9][0-9]{4}|[0-9]{5}[DFdf]|(?=[A-Za-z0-9]*[0-9])[A-HJ-NP-Za-hj-np-z0-9]{4}[A-HJ-NP-Za-hj-np-z0-9挂学警港澳])"
    "(?![A-Za-z0-9])"
)
_IPV4: Final = re.compile(r"(?<![0-9A-Za-z_.\-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9A-Za-z_\-])(?!\.[0-9])")
_IPV6: Final = re.compile(
    r"(?<![0-9A-Za-z_:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?:%[a-z0-9]+)?(?![0-9A-Za-z_:.])"
)
_VERSION: Final = re.compile(r"(?:(?i:version|release|ver|build)\.?|版本(?:号)?|固件|[vV])[:： ]*$")
_ACCOUNT: Final = re.compile(
    r"(?:(?:微信(?:号)?|(?i:wechat(?: id)?|vx|wx)(?:号)?|[Vv薇]信|QQ(?:号)?|(?i:telegram|skype|line id))[ :：是为]{1,4}"
    r"(@?[A-Za-z][-_A-Za-z0-9]{5,31}|[1-9][0-9]{4,10})|(?<![0-9A-Za-z_])(wxid_[a-z0-9]{6,24}))(?![0-9A-Za-z_])"
)
_BIRTHDAY: Final = re.compile(
    r"(?:(?i:born(?: on)?|date of birth|dob|birthday)|出生(?:日期|年月)?|生日)[ :：是为于]{0,4}"
    r"((?:19|20)[0-9]{2}(?:[-/.年] ?)[01]?[0-9](?:[-/.月] ?)[0-3]?[0-9]日?|[0-3]?[0-9][-/. ](?:[01]?[0-9]"
    r"|[A-Z][a-z]{2,8})[-/. ,]+(?:19|20)[0-9]{2}|[A-Z][a-z]{2,8} [0-3]?[0-9],? (?:19|20)[0-9]{2})"
)
_STEP: Final = "(?![到在寄住往址是把])"  # 寄到北京市…: what leads to an address is no part of it
_PLACE: Final = f"(?:{_STEP}[\u4e00-\u9fff]){{2,8}}?"
_ADDRESS_ZH: Final = re.compile(
    rf"(?:{_PLACE}(?:省|自治区))?(?:{_PLACE}(?:市|自治州|地区|盟))?(?:{_PLACE}(?:区|县|旗|镇|乡))?(?:{_STEP}[\u4e00-\u9fffA-Za-z0-9]){{1,12}}?"
    rf"(?:路|街|大道|巷|弄|胡同|村|大街|(?<=[一二三四五六七八九十东西南北中环])道)"
    r"(?:[东西南北中]段)?[0-9一二三四五六七八九十百]{1,6}(?:-[0-9]+)?(?:号|弄|巷)(?:院|楼|大厦)?"
    r"(?:[\u4e00-\u9fffA-Za-z]{0,12}?(?:小区|大厦|花园|公寓|广场|家园|新村|中心|大楼|苑|园|城|府|庭|湾))?"
    r"(?:[0-9A-Za-z一二三四五六七八九十]{1,4}(?:号楼|栋|幢|座|单元|层|楼|室|号|期|区)){0,5}(?:[0-9]{2,5}室?)?"
)
_ADDRESS_EN: Final = re.compile(
    r"(?<![0-9A-Za-z_])[0-9]{1,5}[A-Za-z]? (?:[NSEW]\.? )?(?:[A-Z][a-z]+ ){1,3}(?:Street|St|Avenue"
    r"|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Place|Pl|Square|Sq|Terrace|Way|Highway"
    r"|Hwy)(?![A-Za-z])\.?"
    r"(?:,? (?:Apt|Apartment|Suite|Unit|Flat|#)\.? ?[0-9A-Za-z\-]{1,6})?(?:, (?:[A-Z][a-z]+ ?){1,3})?"
    r"(?:,? [A-Z]{2})?(?: [0-9]{5}(?:-[0-9]{4})?)?"
)
_CARD_SAID: Final = re.compile(
    r"(?:卡号|银行卡|信用卡|储蓄卡|借记卡|账号|帐号|账户|(?i:card|account|visa|mastercard|amex|unionpay))[^0-9]{0,16}$"
)
_NOT_CARD: Final = re.compile(
    r"(?:订单|单号|运单|快递|流水|编号|序列|条码|批次|(?i:order|tracking|invoice|serial|ticket|imei|ref(?:erence)?"
    r"|isbn|sku))[^0-9]{0,16}$"
)


def plain(text: str) -> str:
    """Full-width characters as plain ones, one for one."""
    return text.translate(_WIDE) if _HAS_WIDE.search(text) else text


def _digits(text: str) -> str:
    return re.sub(r"[ \-.()]", "", text)


def _emails(text: str) -> Iterator[tuple[int, int]]:
    if "@" in text:
        for match in _EMAIL.finditer(text):
            name = match.group().partition("@")[0]
            if any(one.isalpha() for one in name) or not name.endswith(" "):  # "49.99 @ shop.com" is a price
                yield match.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for pattern in (_MOBILE, _LANDLINE, _FREE_CALL, _AMERICAN):
        for match in pattern.finditer(text):
            yield match.span()
    for match in _ABROAD.finditer(text):
        if 8 <= len(_digits(match.group())) - match.group().count("+") <= 17:
            yield match.span()


def _ids(text: str) -> Iterator[tuple[int, int]]:
    for match in _ID.finditer(text):
        if checksums.chinese_id(_digits(match.group())):
            yield match.span()
    for match in _ID_OLD.finditer(text):
        if checksums.old_chinese_id(match.group(1)):
            yield match.span(1)


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """A card number passes Luhn, has an issuer's prefix and length, and is written or called like one.

    One number in ten passes Luhn by chance: a bare run of digits behind "order" is not a card.
    """
    for match in _CARD.finditer(text):
        digits = _digits(match.group())
        if not checksums.card_issuer(digits) or not checksums.luhn(digits):
            continue
        before = text[max(0, match.start() - 24) : match.start()]
        if not _NOT_CARD.search(before) or _CARD_SAID.search(before):
            yield match.span()


def _checked(pattern: re.Pattern[str], right: Callable[[str], bool]) -> Callable[[str], Iterator[tuple[int, int]]]:
    def look(text: str) -> Iterator[tuple[int, int]]:
        for match in pattern.finditer(text):
            if right(_digits(match.group())):
                yield match.span()

    return look


def _passports(text: str) -> Iterator[tuple[int, int]]:
    for match in _PASSPORT.finditer(text):
        yield match.span()
    for match in _PASSPORT_SAID.finditer(text):
        yield match.span(1)


def _machines(text: str) -> Iterator[tuple[int, int]]:
    for match in _IPV4.finditer(text):
        if checksums.ip(match.group()) and not _VERSION.search(text[max(0, match.start() - 12) : match.start()]):
            yield match.span()
    if text.count(":") >= 2:
        for match in _IPV6.finditer(text):
            if len(match.group()) > 4 and checksums.ip(match.group().partition("%")[0]):
                yield match.span()


def _accounts(text: str) -> Iterator[tuple[int, int]]:
    for match in _ACCOUNT.finditer(text):
        yield match.span(1 if match.group(1) else 2)


def _addresses(text: str) -> Iterator[tuple[int, int]]:
    for match in _ADDRESS_ZH.finditer(text) if "号" in text or "弄" in text or "巷" in text else ():
        yield match.span()
    for match in _ADDRESS_EN.finditer(text):
        yield match.span()


def _group(pattern: re.Pattern[str], number: int = 0) -> Callable[[str], Iterator[tuple[int, int]]]:
    return lambda text: (match.span(number) for match in pattern.finditer(text))


_DIGIT: Final = re.compile("[0-9]")
LOOKS: Final[dict[str, Callable[[str], Iterator[tuple[int, int]]]]] = {
    "email": _emails,
    "id_card": _ids,
    "bank_card": _cards,
    "iban": _checked(_IBAN, lambda text: checksums.iban(text)),
    "ssn": _checked(_SSN, checksums.social_security),
    "phone": _phones,
    "passport": _passports,
    "plate": _group(_PLATE),
    "ip": _machines,
    "account": _accounts,
    "birthday": _group(_BIRTHDAY, 1),
    "address": _addresses,
    "name": people.names,
}
"""In the order of authority: where two overlap, the earlier one wins (an identity card may hold a phone number's digits)."""
_NEED_DIGITS: Final = frozenset(KINDS) - {"email", "name", "account", "ip", "address"}


def find(text: str, kinds: tuple[str, ...] = KINDS) -> list[Found]:
    """All personal data in a text, in order, without overlaps."""
    read = plain(text)
    has_digits = _DIGIT.search(read) is not None
    starts: list[int] = []  # in order, and with them what is found: a text may be full of it
    taken: list[Found] = []
    for kind, look in LOOKS.items():
        if kind not in kinds or (kind in _NEED_DIGITS and not has_digits):
            continue
        for start, end in look(read):
            place = bisect_left(starts, start)
            free = (place == 0 or taken[place - 1].end <= start) and (place == len(starts) or end <= starts[place])
            if start < end and free:
                starts.insert(place, start)
                taken.insert(place, Found(kind, start, end))
    return taken
