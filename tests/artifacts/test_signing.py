"""Signatures and seals: only this shop's key makes them, any change breaks them, nothing of the key is shown."""

import pytest

from tollway.artifacts.signing import Signer

OURS, THEIRS = Signer(b"a" * 32), Signer(b"b" * 32)


def test_a_signature_holds_for_its_digest_and_key_only() -> None:
    signature = OURS.sign("sha256:1")
    assert OURS.check("sha256:1", signature)
    assert not OURS.check("sha256:2", signature)
    assert not THEIRS.check("sha256:1", signature)


@pytest.mark.parametrize("signature", ["", "not base64!", "AAAA", "é", "A" * 88])
def test_what_is_no_signature_is_simply_false(signature: str) -> None:
    assert not OURS.check("sha256:1", signature)


def test_a_seal_depends_on_note_and_key() -> None:
    assert OURS.seal(b"x") == OURS.seal(b"x")
    assert len({OURS.seal(b"x"), OURS.seal(b"y"), THEIRS.seal(b"x")}) == 3


def test_the_seed_is_not_shown_and_must_be_whole() -> None:
    assert "aaaa" not in repr(OURS)
    with pytest.raises(ValueError, match="32 bytes"):
        Signer(b"short")
