"""Asking an auth server for a place in a run, by node0's protocol; and proving that place to the other peers.

``PUT <auth_server>/api/join`` with the operator's token brings a stage and an access token that the server
has signed. hivemind attaches the access token to every request between DHT nodes and each node checks it
(``hivemind.utils.auth``). With ``bypass_auth`` or in local mode nothing here is called.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NonRetriableError, RetriableError, UserError, call_with_retries
from .identity import Identity
from .peers import Place

if TYPE_CHECKING:
    from hivemind.proto.auth_pb2 import AccessToken
    from hivemind.utils.auth import TokenAuthorizerBase

REFUSED = (401, 403)
ASK_TIMEOUT = 20.0
RENEW_BEFORE = timedelta(minutes=1)
UNCHECKED = "hash"
"""What node0 sends in place of its integrity hash where integrity is not checked."""


def ask_for_place(
    server: str, identity: Identity, token: str, email: str, role: str, place: Place, attempts: int = 4
) -> Any:
    """An authorizer for the DHT, its first access token in hand; ``.stage`` is the stage that was assigned.

    Raises UserError without a token or where the server refuses it, RetriableError where it cannot be
    reached."""
    if not token:
        raise UserError(
            f"{server} gives places for a token: pass --token, or set bypass_auth in the run file"
        )
    authorizer = _authorizer()(server, identity, token, email, role, place)
    call_with_retries(authorizer.renew, attempts, 1.0)
    return authorizer


def request_place(server: str, token: str, body: dict[str, Any]) -> dict[str, Any]:
    """One request to the server; its answer. Raises UserError, NonRetriableError or RetriableError by
    status."""
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/json",
        "request-type": "initial",
    }
    data = json.dumps(body).encode()
    request = urllib.request.Request(f"{server.rstrip('/')}/api/join", data, headers, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=ASK_TIMEOUT) as response:
            answer = json.loads(response.read(1 << 20))
    except urllib.error.HTTPError as error:
        told = f"{server} answered {error.code}: {_detail(error)}"
        if error.code in REFUSED:
            raise NonRetriableError(f"{told}; ask its operator to let this peer in") from None
        raise (RetriableError if error.code in (429, 500, 502, 503) else NonRetriableError)(told) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise RetriableError(f"{server} cannot be asked for a place in the run: {reason}") from None
    if not isinstance(answer, dict):
        raise NonRetriableError(f"{server} did not answer as an auth server")
    return answer


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read(4096))["detail"])[:200]
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)


def node_facts() -> dict[str, Any]:
    """What node0 tells of a machine, under its names; GiB. Network speeds are not measured: it would need a
    host."""
    import torch

    name, memory = "cpu", 0.0
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        name, memory = card.name, card.total_memory / 2**30
    speeds = {"download_speed": None, "upload_speed": None, "latency": None}
    return {"device": name, "gpu_memory": memory, "ram": _ram(), **speeds}


def _ram() -> float:
    try:
        first = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()[0]
        return int(first.split()[1]) / 2**20
    except (OSError, ValueError, IndexError):
        return 0.0


def _authorizer() -> type[TokenAuthorizerBase]:
    """The authorizer's class; hivemind's base class is imported only when one is needed."""
    from hivemind.proto.auth_pb2 import AccessToken
    from hivemind.utils.auth import TokenAuthorizerBase
    from hivemind.utils.crypto import RSAPublicKey

    class Authorizer(TokenAuthorizerBase):
        """Holds this peer's access token and judges the others'."""

        def __init__(
            self, server: str, identity: Identity, token: str, email: str, role: str, place: Place
        ) -> None:
            super().__init__(identity.private_key)
            self.stage = ""
            self._server, self._token = server, token
            self._authority: RSAPublicKey | None = None
            address = (*place.announce, *place.host)[0].split("/")
            self._body = {
                "peer_id": identity.peer_id,
                "role": role,
                "peer_public_key": identity.public_key,
                "email": email,
                "announce_ip_address": address[2],
                "announce_port": int(address[4]),
                "integrity_hash": UNCHECKED,
                "reset_reachability": False,
                **node_facts(),
            }

        def renew(self) -> None:
            """Get an access token. Raises as ``request_place``, NonRetriableError for an answer that is
            none."""
            answer = request_place(self._server, self._token, self._body)
            try:
                self._authority = RSAPublicKey.from_bytes(answer["auth_server_public_key"].encode())
                self.stage = str(answer["stage_type"])
                token = AccessToken(
                    username=answer["username"],
                    public_key=answer["peer_public_key"].encode(),
                    expiration_time=str(datetime.fromisoformat(answer["expiration_time"])),
                    signature=answer["signature"].encode(),
                )
                usable = bool(self.stage) and self.is_token_valid(token)
            except (KeyError, ValueError, TypeError, AttributeError):
                usable = False
            if not usable:
                raise NonRetriableError(f"{self._server} gave no valid access token")
            self._local_access_token = token

        async def get_token(self) -> AccessToken:
            self.renew()
            return self._local_access_token

        def is_token_valid(self, access_token: AccessToken) -> bool:
            if self._authority is None:
                return False
            signed = self._authority.verify(signed_part(access_token), access_token.signature)
            return signed and _expiry(access_token) > datetime.now(UTC)

        def does_token_need_refreshing(self, access_token: AccessToken) -> bool:
            return _expiry(access_token) < datetime.now(UTC) + RENEW_BEFORE

    return Authorizer


def signed_part(token: AccessToken) -> bytes:
    """What of an access token the server signs: node0's form, the key as Python shows bytes."""
    return f"{token.username} {token.public_key} {token.expiration_time}".encode()


def _expiry(token: AccessToken) -> datetime:
    """When it ends; long ago where that cannot be read or has no time zone."""
    try:
        found = datetime.fromisoformat(token.expiration_time)
    except ValueError:
        found = datetime.min
    return found if found.tzinfo else datetime.min.replace(tzinfo=UTC)
