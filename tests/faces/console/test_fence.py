"""The rules at the door, one by one."""

import pytest

from tollway.faces.console.fence import CSP, LoginBrake, host_allowed, origin_allowed, token_matches

SHOP = "https://api.example.com"


@pytest.mark.parametrize(
    ("host", "public", "listen", "allowed"),
    [
        ("api.example.com", True, "0.0.0.0", True),
        ("127.0.0.1:8080", True, "127.0.0.1", True),
        ("localhost", False, "127.0.0.1", True),
        ("[::1]:8080", False, "127.0.0.1", True),
        ("192.168.1.7:8080", False, "0.0.0.0", True),
        ("evil.example", True, "0.0.0.0", False),
        ("evil.example", False, "127.0.0.1", False),
        ("box.lan:8080", False, "0.0.0.0", True),
        ("", False, "0.0.0.0", False),
        ("[bad", False, "0.0.0.0", False),
    ],
)
def test_only_our_own_names_are_answered(host, public, listen, allowed):
    assert host_allowed(host, SHOP if public else "http://127.0.0.1:8080", listen, public) is allowed


@pytest.mark.parametrize(
    ("origin", "fetch_site", "allowed"),
    [
        ("https://api.example.com", "same-origin", True),
        ("http://127.0.0.1:8080", None, True),
        (None, None, True),
        (None, "none", True),
        (None, "cross-site", False),
        (None, "same-site", False),
        ("null", None, False),
        ("https://evil.example", None, False),
        ("https://api.example.com.evil.example", None, False),
        ("http://api.example.com", None, False),
    ],
)
def test_only_our_own_pages_may_send_forms(origin, fetch_site, allowed):
    assert origin_allowed(origin, fetch_site, "127.0.0.1:8080", SHOP) is allowed


def test_the_token_may_come_by_form_or_header_and_must_be_right():
    assert token_matches("secret", None, "secret")
    assert token_matches("secret", "secret", None)
    assert not token_matches("secret", None, None)
    assert not token_matches("secret", "", "Secret")
    assert not token_matches("secret", "sécret")


def test_the_policy_allows_no_inline_script_or_style():
    assert "unsafe" not in CSP
    assert "frame-ancestors 'none'" in CSP


class Watch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_sixth_try_of_a_minute_waits_whatever_case_the_address_is_in():
    watch = Watch()
    brake = LoginBrake(watch)
    assert [brake.wait_s("10.0.0.1", "Ada@x.test") for _ in range(5)] == [0] * 5
    assert brake.wait_s("10.0.0.1", "ada@X.test") == 60
    assert brake.wait_s("10.0.0.2", "ada@x.test") == 0
    watch.now = 60.5
    assert brake.wait_s("10.0.0.1", "ada@x.test") == 0


def test_success_forgives_and_other_addresses_are_not_punished():
    brake = LoginBrake(Watch())
    for _ in range(4):
        brake.wait_s("a", "x")
    brake.forgive("a", "x")
    assert [brake.wait_s("a", "x") for _ in range(6)][:5] == [0] * 5


def test_one_address_cannot_try_many_names_without_end():
    brake = LoginBrake(Watch())
    waits = [brake.wait_s("a", f"user{number}") for number in range(31)]
    assert waits[:30] == [0] * 30
    assert waits[30] > 0


def test_a_subscriber_of_ipv6_has_one_allowance():
    brake = LoginBrake(Watch())
    assert [brake.wait_s(f"2001:db8:1:2::{number:x}", "ada@x.test") for number in range(6)] == [0] * 5 + [60]
    brake.forgive("2001:db8:1:2::ffff", "ada@x.test")
    assert brake.wait_s("2001:db8:1:2::1", "ada@x.test") == 0
    assert brake.wait_s("2001:db8:1:3::1", "ada@x.test") == 0


def test_old_tries_are_forgotten_and_take_no_memory():
    watch = Watch()
    brake = LoginBrake(watch)
    for number in range(25):
        brake.wait_s(f"a{number}", "x")
    watch.now = 120
    brake.wait_s("b", "y")
    assert len(brake._tries) == 2
