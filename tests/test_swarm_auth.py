"""node0's auth protocol against a real server on loopback: who gets a place, and who is let into the DHT."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from swarm_helpers import RUN, STAGE

from gt_plugins.errors import FinetuneError, NonRetriableError, RetriableError, UserError
from gt_plugins.training.swarm.auth import ask_for_place
from gt_plugins.training.swarm.identity import Identity, load_identity
from gt_plugins.training.swarm.peers import Peers, Place, join

METRICS = "training_metrics_training_metrics"
PLACE = Place(("/ip4/127.0.0.1/tcp/49200",))


class AuthServer(ThreadingHTTPServer):
    """Signs access tokens for one bearer token, as node0's server does; keeps what it was asked."""

    def __init__(self) -> None:
        from hivemind.utils.crypto import RSAPrivateKey

        super().__init__(("127.0.0.1", 0), Handler)
        self.key = RSAPrivateKey()
        self.asked: list[dict[str, Any]] = []
        self.lifetime = timedelta(hours=1)
        self.answer: tuple[int, bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: AuthServer

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({**body, "path": self.path})
        status, told = self.server.answer or self.judged(body)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(told)

    def judged(self, body: dict[str, Any]) -> tuple[int, bytes]:
        if self.headers["Authorization"] != "Bearer good":
            return 401, b'{"detail": "this token is not on the list"}'
        key, ends = body["peer_public_key"].encode(), str(datetime.now(UTC) + self.server.lifetime)
        answer = {
            "auth_server_public_key": self.server.key.get_public_key().to_bytes().decode(),
            "monitor_public_key": "none",
            "stage_type": "head-0",
            "reachable": "yes",
            "username": "ann",
            "peer_public_key": key.decode(),
            "expiration_time": ends,
            "signature": self.server.key.sign(f"ann {key!r} {ends}".encode()).decode(),
        }
        return 200, json.dumps(answer).encode()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[AuthServer]:
    made = AuthServer()
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def ask(server: AuthServer, identity: Identity, token: str = "good") -> Any:
    return ask_for_place(server.url, identity, token, "ann@example.org", STAGE, PLACE, attempts=1)


def test_a_place_is_given_for_a_token(server: AuthServer, tmp_path: Path) -> None:
    identity = load_identity(tmp_path / "a.key")
    assert ask(server, identity).stage == "head-0"
    (asked,) = server.asked
    assert asked["path"] == "/api/join" and asked["peer_id"] == identity.peer_id
    assert asked["announce_port"] == 49200 and asked["role"] == STAGE
    names = "device gpu_memory ram download_speed upload_speed latency integrity_hash peer_public_key email"
    assert set(names.split()) <= set(asked)


def test_no_token_no_question(server: AuthServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gives places for a token"):
        ask(server, load_identity(tmp_path / "a.key"), token="")
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (None, NonRetriableError, "401: this token is not on the list; ask its operator"),
        ((503, b'{"detail": "full"}'), RetriableError, "503: full"),
        ((422, b"x"), NonRetriableError, "422"),
        ((200, b"<html>"), RetriableError, "cannot be asked"),
        ((200, b"[]"), NonRetriableError, "did not answer as an auth server"),
        ((200, b'{"stage_type": "head-0"}'), NonRetriableError, "no valid access token"),
    ],
)
def test_an_answer_that_is_no_place_is_said(
    server: AuthServer, tmp_path: Path, answer: Any, kind: type[FinetuneError], words: str
) -> None:
    server.answer = answer
    with pytest.raises(kind) as caught:
        ask(server, load_identity(tmp_path / "a.key"), token="bad" if answer is None else "good")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_token_that_has_ended_is_none(server: AuthServer, tmp_path: Path) -> None:
    server.lifetime = timedelta(hours=-1)
    with pytest.raises(NonRetriableError, match="no valid access token"):
        ask(server, load_identity(tmp_path / "a.key"))


def start(folder: Path, name: str, seeds: tuple[str, ...], authorizer: Any) -> Peers:
    from gt_plugins.training.swarm.records import make_validators

    identity = load_identity(folder / f"{name}.key")
    validators = make_validators(RUN, identity.peer_id, STAGE, identity)
    return join(Place(seeds=seeds), identity, validators, 5.0, lambda _: None, authorizer)


def test_without_an_access_token_nobody_gets_into_the_dht(server: AuthServer, tmp_path: Path) -> None:
    keys = {n: load_identity(tmp_path / f"{n}.key") for n in ("one", "two", "stranger")}
    value = {"role": STAGE, "step": 1, "loss": 0.5, "tokens_per_second": 1.0, "epoch": 0}
    with (
        start(tmp_path, "one", (), ask(server, keys["one"])) as one,
        start(tmp_path, "two", one.addresses, ask(server, keys["two"])) as two,
    ):
        assert two.announce(METRICS, {**value, "peer_id": keys["two"].peer_id}, 30.0)
        assert set(one.records(METRICS)) == {keys["two"].peer_id}
        with pytest.raises(FinetuneError, match="did not answer as a peer"):
            start(tmp_path, "stranger", one.addresses, None).close()
