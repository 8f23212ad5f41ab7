"""Masking: generated personal data in many spellings is found, look-alikes are not, and what is covered can be put back."""

import random
import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollway.guard import masking
from tollway.guard.masking import checksums

SAID = {  # what may stand around a value, in both languages
    "phone": ["请致电{}谢谢", "手机：{}，王经理", "call {} now", "Tel. {}.", "{}"],
    "id_card": ["身份证号{}，请核对", "ID {} was shown", "证件号码：{}。", "{}"],
    "bank_card": ["银行卡号{}开户行", "card {} expires", "转到{}账户", "{}"],
    "email": ["邮箱{}请回复", "write to {}.", "mailto:{} or", "{}"],
    "plate": ["车牌{}停在门口", "the car {} left", "{}"],
    "passport": ["护照{}已过期", "passport {} was lost", "{}"],
}


def chinese_id(dice: random.Random) -> str:
    body = (
        dice.choice(["110105", "310104", "440304", "510107"])
        + f"{dice.randint(1950, 2010)}{dice.randint(1, 12):02}{dice.randint(1, 28):02}"
    )
    body += f"{dice.randint(0, 999):03}"
    return next(body + last for last in "0123456789X" if checksums.chinese_id(body + last))


def card(dice: random.Random) -> str:
    prefix, length = dice.choice([("62", 19), ("62", 16), ("4", 16), ("53", 16), ("37", 15)])
    body = prefix + "".join(dice.choice("0123456789") for _ in range(length - len(prefix) - 1))
    return next(body + last for last in "0123456789" if checksums.luhn(body + last))


MADE = {
    "phone": lambda dice: f"1{dice.choice('3456789')}" + "".join(dice.choice("0123456789") for _ in range(9)),
    "id_card": chinese_id,
    "bank_card": card,
    "email": lambda dice: (
        f"{dice.choice(['li.wei', 'anna_k', 'x+tag', 'a1'])}{dice.randint(1, 99)}@{dice.choice(['qq.com', 'mail.example.org', '163.com'])}"
    ),
    "plate": lambda dice: dice.choice("京沪粤川") + dice.choice("ABCDE") + f"{dice.randint(10000, 99999)}",
    "passport": lambda dice: f"{dice.choice('EG')}{dice.randint(10**7, 10**8 - 1)}",
}


def spellings(kind: str, value: str) -> list[str]:
    wide = "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in value)
    if kind == "phone":
        return [
            value,
            f"{value[:3]}-{value[3:7]}-{value[7:]}",
            f"{value[:3]} {value[3:7]} {value[7:]}",
            f"+86 {value}",
            f"+86-{value}",
            f"0086{value}",
            wide,
            " ".join(value),
        ]
    if kind == "id_card":
        return [
            value,
            f"{value[:6]} {value[6:14]} {value[14:]}",
            f"{value[:6]}-{value[6:14]}-{value[14:]}",
            value.lower(),
            wide,
        ]
    if kind == "bank_card":
        groups = [value[at : at + 4] for at in range(0, len(value), 4)]
        return [value, " ".join(groups), "-".join(groups), wide]
    if kind == "plate":
        return [value, f"{value[:2]}·{value[2:]}", f"{value[:2]} {value[2:]}"]
    return [value, wide] if kind == "email" else [value]


@pytest.mark.parametrize("kind", MADE)
def test_generated_data_in_every_spelling_is_found(kind):
    dice = random.Random(f"masking {kind}")
    seen = missed = 0
    for _ in range(150):
        value = MADE[kind](dice)
        for spelled in spellings(kind, value):
            text = dice.choice(SAID[kind]).format(spelled)
            start = text.index(spelled)
            found = [
                one
                for one in masking.find(text)
                if one.kind == kind and one.start <= start and one.end >= start + len(spelled)
            ]
            seen, missed = seen + 1, missed + (not found)
    assert missed <= 0.005 * seen, f"{missed} of {seen} missed"


def test_numbers_that_only_look_like_it_are_left_alone():
    dice = random.Random(20260101)
    texts = []
    for _ in range(400):
        digits = "".join(dice.choice("0123456789") for _ in range(18))
        wrong_day = digits[:10] + "99" + digits[12:]
        texts += [f"订单号{dice.randint(10**15, 10**16 - 1)}已发货", f"tracking no. {dice.randint(10**17, 10**18 - 1)}", f"编号{wrong_day}",
                  f"共{dice.randint(1, 9999)}.{dice.randint(10, 99)}元", f"version 10.{dice.randint(0, 99)}.{dice.randint(0, 99)}.1", f"ISBN 978-7-{dice.randint(100, 999)}-{dice.randint(10000, 99999)}-1",
                  f"{dice.randint(1990, 2030)}-{dice.randint(10, 12)}-{dice.randint(10, 28)} {dice.randint(10, 23)}:{dice.randint(10, 59)}", f"0x{dice.getrandbits(64):016x}", f"step {dice.randint(1, 10**6)} of {10**6}"]  # fmt: skip
    wrong = [text for text in texts if masking.find(text)]
    assert len(wrong) <= 0.005 * len(texts), wrong[:10]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Call (415) 555-2671 or +44 20 7946 0958", ["phone", "phone"]),
        ("座机010-62345678转801，热线400-820-8820", ["phone", "phone"]),
        ("SSN 123-45-6789, not 000-12-3456", ["ssn"]),
        ("IBAN DE89 3704 0044 0532 0130 00, not DE88370400440532013000", ["iban"]),
        ("from 192.168.0.7 and 2001:db8::8a2e:370:7334 at 12:30:45", ["ip", "ip"]),
        ("微信号：abc_12345，QQ 123456789", ["account", "account"]),
        ("生日1990年3月5日, born on 5 March 1990, dated 2020-01-01", ["birthday", "birthday"]),
        ("寄到浙江省杭州市西湖区文三路138号3栋502室", ["address"]),
        ("I live at 221 Baker Street, London", ["address"]),
        ("身份证110105491231002（一代）", ["id_card"]),
        ("好评！5星，买了3次，一共花了1299元", []),
        ("The 2026 report has 12345678 rows and scores 0.98", []),
        ("高兴的时候我是很方便的，马上安排，于是成功", []),
    ],
)  # fmt: skip
def test_kinds(text, kinds):
    assert [one.kind for one in masking.find(text)] == kinds


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("请联系王芳女士或欧阳修先生", ["王芳", "欧阳修"]),
        ("姓名：李明，我叫张伟。", ["李明", "张伟"]),
        ("Dear Mary, this is John Smith from sales", ["Mary", "John Smith"]),
        ("Mr. Darcy met Dr. Anna van Dyke; my name is Li Wei", ["Darcy", "Anna", "Li Wei"]),
        ("May I come on Monday? Will is a word. Mark my words.", []),
    ],
)
def test_names_are_hints_from_what_stands_around_them(text, names):
    found = [text[one.start : one.end] for one in masking.find(text, ("name",))]
    assert found == names and set(masking.HINTS) == {"name", "address"}


TEXTS = st.lists(
    st.one_of(st.text(max_size=12), st.sampled_from([" 13812345678 ", "[PHONE_1]", "a@b.cn", "王芳女士", "4111 1111 1111 1111", "[", "[NAME_", "１３９１２３４５６７８"])),
    max_size=8,
).map("".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.randoms(use_true_random=False))
def test_what_was_covered_comes_back_whole_and_in_pieces(text, dice):
    masked = masking.Masker().mask(text)
    assert masking.restore(masked.text, masked.values) == text
    for one in masked.found:
        assert masked.text != text and text[one.start : one.end] in masked.values.values()
    restorer, out, at = masking.Restorer(masked.values), "", 0
    while at < len(masked.text):
        step = dice.randint(1, 6)
        out += restorer.feed(masked.text[at : at + step])
        at += step
    assert out + restorer.end() == text


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_read_and_places_are_in_it(text):
    found = masking.find(text)
    assert all(0 <= one.start < one.end <= len(text) for one in found)
    assert all(one.end <= other.start for one, other in pairwise(found))


def test_the_same_value_keeps_its_mark_from_text_to_text():
    masker = masking.Masker()
    first = masker.mask("13812345678 or 13912345678")
    second = masker.mask("again 13912345678, new 13712345678", first.values)
    assert first.text == "[PHONE_1] or [PHONE_2]" and second.text == "again [PHONE_2], new [PHONE_3]"


def test_styles():
    text = "王芳女士 13812345678 me@example.com"
    assert masking.Masker(style="kind").mask(text).text == "[NAME]女士 [PHONE] [EMAIL]"
    assert masking.Masker(style="partial").mask(text).text == "王*女士 138****5678 m***@example.com"
    one, other = (masking.Masker(style="hash", key=key) for key in (b"one", b"other"))
    assert one.mask(text).text == one.mask(text).text != other.mask(text).text
    assert re.fullmatch(r"\[NAME_[0-9a-f]{8}\]女士 .*", one.mask(text).text)
    assert masking.Masker(kinds=("email",), style="kind").mask(text).text == "王芳女士 13812345678 [EMAIL]"
    for wrong in ({"style": "hash"}, {"style": "none"}, {"kinds": ("phones",)}):
        with pytest.raises(ValueError):
            masking.Masker(**wrong)


@pytest.mark.parametrize(
    "text",
    [
        "1" * 20_000,
        "1 " * 10_000,
        "a@" * 10_000,
        "a." * 10_000 + "@",
        "王" * 20_000,
        "北京市" * 5_000,
        ":" * 20_000,
        "John " * 5_000,
        "1-" * 10_000,
        "[NAME_" * 4_000,
    ],
    ids=lambda text: text[:6],
)
def test_no_text_takes_long(text):
    began = time.process_time()
    masking.find(text)
    assert time.process_time() - began < 1.5


def test_checksums_are_the_published_ones():
    assert checksums.chinese_id("11010519491231002X") and not checksums.chinese_id(
        "110105194912310021"
    )  # GB 11643's own example
    assert checksums.luhn("79927398713") and not checksums.luhn("79927398710")
    assert checksums.iban("GB82WEST12345698765432") and not checksums.iban("GB82WEST12345698765433")


def test_a_text_full_of_it_takes_no_longer_for_each():
    for kind, one in (("email", "a%d@example.com "), ("ip", "10.1.%d.7 "), ("iban", "DE89 3704 0044 0532 0130 00, ")):
        text = "".join(one % (n % 250) if "%" in one else one for n in range(20_000))
        began = time.process_time()
        assert len(masking.find(text, ("email", "ip", "iban"))) == 20_000, kind
        assert time.process_time() - began < 3


def identity(first: str) -> str:
    """An identity card's number with its check digit."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return first + "10X98765432"[sum(int(one) * weight for one, weight in zip(first, weights, strict=True)) % 11]


ID = identity("11010519900307293")
LETTERS = [  # as people write, and what has to be covered
    ("您好，我是王建国先生的家属，麻烦把报告寄到北京市朝阳区建国路88号SOHO现代城A座1203室，电话１３９ １２３４ ５６７８。",
     {"王建国", "北京市朝阳区建国路88号SOHO现代城A座1203室", "１３９ １２３４ ５６７８"}),
    (f"客户李晓明（身份证号{ID}）于2026年3月办理了尾号6789的储蓄卡。", {"李晓明", ID}),
    ("收款人：欧阳娜娜，开户行：工商银行深圳南山支行，卡号6222 0202 0011 2233 446。", {"欧阳娜娜", "6222 0202 0011 2233 446"}),
    ("加我微信wxid_a1b2c3d4聊，或者微信号：zhang-san_88，QQ 1234567890。", {"wxid_a1b2c3d4", "zhang-san_88", "1234567890"}),
    ("车牌粤B·12345的车主陈女士，新能源车沪AD12345也在她名下，手机号13800138000。", {"粤B·12345", "陈", "沪AD12345", "13800138000"}),
    ("张伟医生说患者刘洋（女）下周三复查，请联系家属刘先生 138-0013-8000。", {"张伟", "刘洋", "刘", "138-0013-8000"}),
    ("收货地址：浙江省杭州市余杭区五常街道文一西路969号3号楼5单元502，收件人赵小姐，+86 139 1234 5678",
     {"浙江省杭州市余杭区五常街道文一西路969号3号楼5单元502", "赵", "+86 139 1234 5678"}),
    ("我叫孙悦，住在上海市浦东新区世纪大道1号东方明珠苑12栋301，邮箱sunyue1990@163.com，生日1990年3月7日",
     {"孙悦", "上海市浦东新区世纪大道1号东方明珠苑12栋301", "sunyue1990@163.com", "1990年3月7日"}),
    ("吴总监您好，护照E12345678的客人是林太太，固话0755-26712345转801，公司在广东省深圳市南山区科技园南区高新南一道9号。",
     {"吴", "E12345678", "林", "0755-26712345转801", "广东省深圳市南山区科技园南区高新南一道9号"}),
    (f"联系人 马云龙 电话 021 6888 1234 身份证 {ID[:6]} {ID[6:14]} {ID[14:]} 地址 江苏省南京市鼓楼区中山路18号德基广场2期16层，"
     "王姐说她爱人叫李强。",
     {"马云龙", "021 6888 1234", f"{ID[:6]} {ID[6:14]} {ID[14:]}", "江苏省南京市鼓楼区中山路18号德基广场2期16层", "王", "李强"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), LETTERS)
def test_ten_chinese_letters_are_covered_exactly(text, expected):
    assert {text[one.start : one.end] for one in masking.find(text)} == expected


@pytest.mark.parametrize(
    "text",
    [
        "客户白名单已更新，客户成长，客户方面没有意见。", "学生和老师都很高兴。", "高总共收到三封信，汇总如下。", "他叫车去了，她叫外卖。",
        "乘客于途中下车。", "会员白金卡今日到期。", "把报告寄到公司。", "微信支付和微信小程序都可以用。", "频道一共9个。",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_name_or_an_address_stays(text):
    assert masking.find(text) == []
