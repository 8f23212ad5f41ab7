"""The operator's mark on a package: Ed25519 over the manifest's digest.

The seed comes from the home's secrets (`guard.secrets`), outside the packages folder, so that whoever can write
packages still cannot make one this shop would load.

    signer = signing.Signer(secrets.signing_seed)
    signer.sign(digest); signer.check(digest, signature)
"""

import base64
import binascii
import hashlib
import hmac
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PURPOSE: Final = b"tollway model package v1\n"


class Signer:
    """Signs digests and checks signatures; also seals the shop's own notes about packages (see `seal`)."""

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise ValueError("an Ed25519 seed has 32 bytes")
        self._seed = seed

    def __repr__(self) -> str:
        return f"Signer({self.key_id})"

    @cached_property
    def _key(self) -> "Ed25519PrivateKey":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # lazy: start-up time

        return Ed25519PrivateKey.from_private_bytes(self._seed)

    @cached_property
    def key_id(self) -> str:
        """A short public name of the key: the first 16 hex digits of the SHA-256 of its public half."""
        return hashlib.sha256(self._key.public_key().public_bytes_raw()).hexdigest()[:16]

    def sign(self, digest: str) -> str:
        """The signature of a digest, base64."""
        return base64.b64encode(self._key.sign(_PURPOSE + digest.encode())).decode("ascii")

    def check(self, digest: str, signature: str) -> bool:
        """Whether `signature` over `digest` was made with this key."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.public_key().verify(base64.b64decode(signature, validate=True), _PURPOSE + digest.encode())
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True

    def seal(self, note: bytes) -> str:
        """A keyed checksum for notes only this shop reads again (much cheaper than a signature)."""
        key = hmac.digest(self._seed, b"tollway sealed notes v1", "sha256")
        return hmac.new(key, note, "sha256").hexdigest()
