"""Who made a bundle: an Ed25519 key of each town (RFC 8032), by the library cryptography.

A shared secret would let every member of a rig pass for every other one; a key pair does not. The private
key stands in ``<town>/.finetune/share.key`` (0600, made once), the public one is told to the others by hand.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...durable import PRIVATE_FILE, write_text
from ...errors import UserError, in_file
from ...town.root import Town

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIX = "ed25519:"


def key_path(town: Town) -> Path:
    return town.finetune_dir / "share.key"


def public_key(town: Town) -> str:
    """The town's public key, ``ed25519:<base64>``; the pair is made at the first call."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    raw = _private(town).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return PREFIX + base64.b64encode(raw).decode()


def sign(town: Town, data: bytes) -> bytes:
    """The town's signature of ``data``, 64 bytes."""
    return _private(town).sign(data)


def is_signed(key: str, data: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is that of the holder of the public key ``key``."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(_raw(key)).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_public(key: str) -> bool:
    """Whether ``key`` has the form of a public key."""
    try:
        return len(_raw(key)) == 32
    except ValueError:
        return False


def fingerprint(key: str) -> str:
    """A public key in short."""
    return key.removeprefix(PREFIX)[:12]


def _raw(key: str) -> bytes:
    if not key.startswith(PREFIX):
        raise ValueError("no ed25519 key")
    try:
        return base64.b64decode(key.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


def _private(town: Town) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    path = key_path(town)
    if not path.exists():
        town.own_dir(town.finetune_dir)
        write_text(path, Ed25519PrivateKey.generate().private_bytes_raw().hex() + "\n")
    if path.stat().st_mode & 0o077:
        os.chmod(path, PRIVATE_FILE)
    try:
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(path.read_text(encoding="ascii").strip()))
    except ValueError:
        mend = "put the old key back, or remove it and tell the others the new public one"
        raise UserError(in_file(path, "", "not a share key", mend)) from None
