"""Passwords are stored so that stealing them costs argon2id, and checked without telling who exists."""

import time

import pytest

from tollway.guard import passwords
from tollway.kit.errors import BadRequest


def test_the_right_password_is_accepted_and_a_wrong_one_is_not():
    stored = passwords.hash_password("correct horse battery")
    assert passwords.verify_password("correct horse battery", stored)
    assert not passwords.verify_password("correct horse batterz", stored)


def test_the_stored_text_is_argon2id_at_the_cost_we_promise():
    stored = passwords.hash_password("correct horse battery")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert stored != passwords.hash_password("correct horse battery")  # salted


@pytest.mark.parametrize("password", ["", "short", "x" * 201])
def test_too_short_and_too_long_ones_are_refused(password):
    with pytest.raises(BadRequest, match="10 to 200"):
        passwords.hash_password(password)


def test_nobody_has_a_password_and_a_damaged_hash_lets_nobody_in():
    assert not passwords.verify_password("correct horse battery", None)
    assert not passwords.verify_password("correct horse battery", "not a hash")


def test_a_long_password_does_not_match_its_own_beginning():
    stored = passwords.hash_password("x" * 200)
    assert passwords.verify_password("x" * 200, stored)
    assert not passwords.verify_password("x" * 5000, stored)


def test_an_unknown_person_takes_as_long_as_a_known_one():
    stored = passwords.hash_password("correct horse battery")

    def best(against):
        times = []
        for _ in range(5):
            start = time.process_time()
            passwords.verify_password("wrong horse battery", against)
            times.append(time.process_time() - start)
        return min(times)

    assert 0.5 < best(stored) / best(None) < 2


def test_generated_passwords_are_long_and_differ():
    made = {passwords.new_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(password) == 23 for password in made)
