"""An API key proves by itself that it is one, and nothing that is stored leads back to it."""

import string

from hypothesis import given
from hypothesis import strategies as st

from tollway.guard import keys

BASE62 = string.digits + string.ascii_letters


def test_a_new_key_is_well_formed_and_says_whether_it_is_live():
    live, test = keys.new_key(), keys.new_key(live=False)
    assert live.startswith("tw_live_") and test.startswith("tw_test_")
    assert keys.well_formed(live) and keys.well_formed(test)
    assert len(live) == len(test) == keys.LENGTH == 46


def test_keys_do_not_repeat():
    assert len({keys.new_key() for _ in range(1000)}) == 1000


@given(place=st.integers(0, keys.LENGTH - 1), other=st.sampled_from(BASE62 + "_ é"))
def test_one_changed_character_is_noticed(place, other):
    key = keys.new_key()
    changed = key[:place] + other + key[place + 1 :]
    assert keys.well_formed(changed) == (changed == key)


@given(st.text(max_size=60))
def test_any_text_is_judged_without_an_exception(text):
    assert not keys.well_formed(text)
    assert not keys.well_formed("tw_live_" + text)


def test_a_swap_of_prefix_is_noticed():
    assert not keys.well_formed(keys.new_key().replace("tw_live_", "tw_test_"))


def test_the_digest_depends_on_key_and_pepper_and_on_nothing_else():
    one, two = keys.new_key(), keys.new_key()
    assert keys.digest(one, b"pepper") == keys.digest(one, b"pepper")
    assert len({keys.digest(one, b"pepper"), keys.digest(two, b"pepper"), keys.digest(one, b"salt")}) == 3
    assert len(keys.digest(one, b"pepper")) == 64


def test_the_hint_keeps_six_secret_characters_at_most():
    key = keys.new_key()
    shown = keys.hint(key)
    assert shown == f"{key[:10]}…{key[-4:]}"
    assert len(shown) <= 30
