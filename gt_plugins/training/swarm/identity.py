"""Who a peer is: one RSA key that libp2p, the DHT's signatures and the operator's allow-list all know it by.

The file has libp2p's own format (a protobuf with the private key), so node0 and hivemind read it too. The
peer id is the hash of the public key: a list of peer ids is a list of keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...durable import write_bytes
from ...errors import UserError, in_file

if TYPE_CHECKING:
    from hivemind.utils.crypto import RSAPrivateKey

SHA256_MULTIHASH = b"\x12\x20"
"""Code and length of a SHA-256 in the multihash format that peer ids have."""


@dataclass(frozen=True)
class Identity:
    """A peer's key; ``public_key`` is the line ``ssh-rsa …``, ``peer_id`` its hash in base 58."""

    path: Path
    peer_id: str
    public_key: str
    private_key: RSAPrivateKey


def load_identity(path: Path) -> Identity:
    """The identity of a file; made, 0600, where the file is not there.

    Raises UserError where it holds no RSA key or others may read it."""
    from google.protobuf.message import DecodeError
    from hivemind.proto import crypto_pb2
    from hivemind.utils.crypto import RSAPrivateKey

    if not path.exists():
        made = crypto_pb2.PrivateKey(key_type=crypto_pb2.KeyType.RSA, data=RSAPrivateKey().to_bytes())
        write_bytes(path, made.SerializeToString())
    if path.stat().st_mode & 0o077:
        raise UserError(in_file(path, "", "a private key that others may read", f"chmod 600 {path}"))
    key = RSAPrivateKey.__new__(RSAPrivateKey)
    try:
        key.__setstate__({"_private_key": crypto_pb2.PrivateKey.FromString(path.read_bytes()).data})
        public = key.get_public_key().to_bytes().decode()
    except (DecodeError, ValueError, TypeError, AttributeError):
        raise UserError(
            in_file(path, "", "not a peer's RSA key", "name another file; it will be made")
        ) from None
    return Identity(path, peer_id_of(public), public, key)


def peer_id_of(public_key: str | bytes) -> str:
    """The peer id of a line ``ssh-rsa …``. Raises ValueError where it is no RSA key."""
    import hashlib

    from cryptography.hazmat.primitives import serialization
    from hivemind.p2p import PeerID
    from hivemind.proto import crypto_pb2
    from hivemind.utils.crypto import RSAPublicKey

    line = public_key.encode() if isinstance(public_key, str) else public_key
    der = RSAPublicKey.from_bytes(line)._public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    message = crypto_pb2.PublicKey(key_type=crypto_pb2.KeyType.RSA, data=der).SerializeToString()
    return str(PeerID(SHA256_MULTIHASH + hashlib.sha256(message).digest()))


def allow_list(entries: Iterable[str], where: str) -> frozenset[str]:
    """Peer ids of an operator's list: an entry is a peer id or a public key (``ssh-rsa …``, then a comment).

    Raises UserError naming the entry that is neither."""
    found = set()
    for entry in entries:
        words = entry.split()
        try:
            if words[:1] == ["ssh-rsa"]:
                found.add(peer_id_of(" ".join(words[:2])))
            elif len(words) == 1 and 40 <= len(words[0]) <= 64 and words[0].isalnum():
                found.add(words[0])
            else:
                raise ValueError
        except ValueError:
            mend = "write a peer id or a line ssh-rsa …"
            raise UserError(in_file(where, "allowed_peers", f"{entry[:60]!r} is no peer", mend)) from None
    return frozenset(found)
