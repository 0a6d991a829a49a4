"""Signatures of webhooks, as Standard Webhooks 1.0.0 describes them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

PREFIX = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64
"""Length of a key in the specification."""
HOW = (
    'make one with `python3 -c "import base64, secrets; '
    "print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\"`"
)


def keys_of(secret: str) -> list[bytes]:
    """Return the keys of a secret: one, or two while receivers change from one to the other.

    Args:
        secret: `whsec_` and the key in base64; several are separated by spaces.

    Raises:
        ValueError: the secret is not of this form, or a key has the wrong length. The message does not quote it.
    """
    keys = [_key(text) for text in secret.split()]
    if not keys:
        raise ValueError(f"secret is empty: {HOW}")
    return keys


def headers(keys: list[bytes], event_id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the headers that sign a body.

    Args:
        keys: each makes one signature.
        event_id: the same at every attempt.
        at: when this attempt is made, in Unix seconds.
        body: exactly what is sent.
    """
    content = f"{event_id}.{at}.".encode() + body
    made = (base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(at),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in made),
    }


def _key(text: str) -> bytes:
    if not text.startswith(PREFIX):
        raise ValueError(f"secret must begin with {PREFIX}: {HOW}")
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f"secret must be {PREFIX} and base64: {HOW}") from error
    if not LEAST_BYTES <= len(key) <= MOST_BYTES:
        raise ValueError(f"secret must hold {LEAST_BYTES} to {MOST_BYTES} bytes, not {len(key)}: {HOW}")
    return key
