"""The endpoint over real sockets: streaming, errors in the API's form, the queue, tokens, the log."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serving_helpers import BASH, Scripted, Slow, call_reply, request, text_reply

from gt_plugins.errors import FinetuneError, RetriableError, UserError
from gt_plugins.serving.app import make_app
from gt_plugins.serving.client import EndpointClient
from gt_plugins.serving.local import served_locally
from gt_plugins.serving.responder import Reply

TOKEN = "a-token-of-sixteen"
NAMES = ("gt-ft-deacon", "gt-ft-deacon:v1")


@pytest.fixture
def scripted() -> Scripted:
    def script(body: Any) -> Reply:
        return call_reply("gt hook", "Looking.") if body.get("tools") else text_reply('{"title": "Patrol"}')

    return Scripted(script)


@pytest.fixture
def url(scripted: Scripted) -> Iterator[str]:
    with served_locally(make_app(scripted, TOKEN, NAMES, max_body=20_000)) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[EndpointClient]:
    with EndpointClient(url, TOKEN) as one:
        yield one


def post(url: str, body: Any, token: str | None = TOKEN, path: str = "/v1/messages") -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(url + path, content=content, headers=headers, trust_env=False)


def test_a_reply_in_the_api_s_form(client: EndpointClient) -> None:
    value = client.message(request(tools=[BASH], unknown_field={"x": 1}, thinking={"type": "adaptive"}))
    assert value["type"] == "message" and value["role"] == "assistant" and value["id"].startswith("msg_")
    assert value["model"] == "gt-ft-deacon" and value["stop_reason"] == "tool_use"
    assert value["content"][0] == {"type": "text", "text": "Looking."}
    assert value["content"][1]["input"] == {"command": "gt hook"}
    assert value["usage"]["input_tokens"] == 7 and value["usage"]["output_tokens"] == 3


def test_the_events_of_a_streamed_reply(client: EndpointClient) -> None:
    events = list(client.stream(request(tools=[BASH])))
    kinds = [e["type"] for e in events]
    assert kinds[:2] == ["message_start", "ping"] and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds[2:-2] == ["content_block_start", "content_block_delta", "content_block_stop"] * 2
    assert [e["index"] for e in events if "index" in e] == [0, 0, 0, 1, 1, 1]
    start = events[0]["message"]
    assert start["content"] == [] and start["stop_reason"] is None and "input_tokens" in start["usage"]
    assert events[3]["delta"] == {"type": "text_delta", "text": "Looking."}
    call = next(e for e in events if e.get("index") == 1)
    assert call["content_block"]["name"] == "Bash" and call["content_block"]["input"] == {}
    arguments = next(e["delta"] for e in events if e.get("delta", {}).get("type") == "input_json_delta")
    assert json.loads(arguments["partial_json"]) == {"command": "gt hook"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_text_arrives_while_it_is_written() -> None:
    slow = Slow(words=20, pause=0.03)
    with served_locally(make_app(slow, TOKEN)) as url, EndpointClient(url, TOKEN) as client:
        arrived: list[int] = []
        texts: list[str] = []
        for event in client.stream(request()):
            if event["type"] == "content_block_delta":
                arrived.append(slow.given)
                texts.append(event["delta"]["text"])
        assert arrived[0] <= 3, "the first piece came long before the last was written"
        assert "".join(texts) == " ".join(f"w{i}" for i in range(20))
        assert next(iter(client.stream(request())))["message"]["usage"]["input_tokens"] == 3


def test_what_needs_no_token(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as http:
        assert http.head("/").status_code == 200 and http.get("/").status_code == 200
        health = http.get("/health")
        assert health.status_code == 200
        assert health.json()["status"] == "ok" and health.json()["models"] == list(NAMES)
        assert '"gt-ft-deacon"' in health.text and health.json()["engine"] == "scripted"


@pytest.mark.parametrize("token", [None, "wrong", TOKEN + "x", TOKEN[:-1], "ü"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/chat/completions"])
def test_a_wrong_token_gets_nowhere(url: str, scripted: Scripted, token: str | None, path: str) -> None:
    headers = [] if token is None else [(b"authorization", b"Bearer " + token.encode())]
    answer = httpx.post(url + path, json=request(), headers=headers, trust_env=False)
    assert answer.status_code == 401 and scripted.bodies == []
    assert answer.json()["error"]["type"] == "authentication_error"
    assert answer.json()["request_id"] == answer.headers["request-id"]


def test_both_headers_carry_a_token(url: str) -> None:
    for headers in ({"x-api-key": TOKEN}, {"authorization": f"bearer {TOKEN}"}):
        assert httpx.get(f"{url}/v1/models", headers=headers, trust_env=False).status_code == 200
    assert httpx.get(f"{url}/v1/models", trust_env=False).status_code == 401


BAD = [
    (b"not json", "not valid JSON"),
    (b"[1]", "not a JSON object"),
    (b"\xff\xfe", "not valid JSON"),
    (b"[" * 9_000, "not valid JSON"),
    (request(model=5), "model"),
    ({"model": "gt-ft-deacon", "messages": []}, "max_tokens: Field required"),
    (request(max_tokens=0), "max_tokens"),
    (request(max_tokens=True), "max_tokens"),
    (request(max_tokens="9"), "max_tokens"),
    (request(messages=[]), "messages"),
    (request(messages="hello"), "messages"),
    (request(messages=["hello"]), "messages.0.role"),
    (request(messages=[{"role": "robot", "content": "x"}]), "messages.0.role"),
    (request(messages=[{"role": "user"}]), "messages.0.content"),
    (request(messages=[{"role": "user", "content": [3]}]), "messages.0.content.0.type"),
    (request(messages=[{"role": "user", "content": [{"type": "text"}]}]), "messages.0.content.0.text"),
    (request(messages=[{"role": "assistant", "content": [{"type": "tool_use"}]}]), "tool_use"),
    (request(messages=[{"role": "user", "content": [{"type": "tool_result", "content": 5}]}]), "content"),
    (request(system=5), "system"),
    (request(system=[{"type": "image"}]), "system"),
    (request(tools={}), "tools"),
    (request(tools=[{"name": ""}]), "tools.0.name"),
    (request(tool_choice="any"), "tool_choice"),
    (request(output_config=5), "output_config"),
    (request(output_config={"format": {"type": "json_schema"}}), "output_config.format.schema"),
    (request(stream="yes"), "stream"),
]


@pytest.mark.parametrize(("body", "named"), BAD)
def test_a_bad_request_is_told_what_is_wrong(url: str, scripted: Scripted, body: Any, named: str) -> None:
    answer = post(url, body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and scripted.bodies == []
    assert error["type"] == "invalid_request_error" and named in error["message"]


def test_other_errors_have_the_api_s_form(url: str) -> None:
    assert post(url, request(model="gpt")).json()["error"]["type"] == "not_found_error"
    assert post(url, request(model="claude-haiku-4-5")).status_code == 200
    large = post(url, request(messages=[{"role": "user", "content": "x" * 30_000}]))
    assert (large.status_code, large.json()["error"]["type"]) == (413, "request_too_large")
    missing = httpx.get(f"{url}/v1/nothing", trust_env=False)
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    assert httpx.get(f"{url}/v1/messages", trust_env=False).status_code == 405


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (UserError("schema: no"), 400, "invalid_request_error"),
        (RetriableError("busy"), 529, "overloaded_error"),
        (FinetuneError("NaN"), 500, "api_error"),
        (ZeroDivisionError("SECRET PROMPT"), 500, "api_error"),
    ],
)
def test_failures_behind_the_endpoint(
    error: Exception, status: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_body: Any) -> Reply:
        raise error

    caplog.set_level(logging.DEBUG)
    with served_locally(make_app(Scripted(fail), TOKEN)) as url:
        answer = post(url, request())
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
        with EndpointClient(url, TOKEN) as client, pytest.raises(FinetuneError):
            list(client.stream(request()))
        assert post(url, request()).status_code == status, "the queue is free again"
    assert "SECRET" not in answer.text and "SECRET" not in caplog.text


def test_one_at_a_time_and_a_bounded_queue() -> None:
    at_once, most = 0, 0
    lock, go = threading.Lock(), threading.Event()

    def script(_body: Any) -> Reply:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        go.wait(5)
        with lock:
            at_once -= 1
        return text_reply("ok")

    statuses: list[int] = []
    with served_locally(make_app(Scripted(script), TOKEN, waiting=2)) as url:
        threads = [
            threading.Thread(target=lambda: statuses.append(post(url, request()).status_code))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5
        while statuses.count(529) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        with EndpointClient(url) as client:
            assert client.status()["busy"] == 3
        go.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200, 200, 200, 529, 529, 529] and most == 1
        with EndpointClient(url) as client:
            assert client.status()["busy"] == 0


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_goes_away_stops_the_work(streaming: bool) -> None:
    slow = Slow(words=500, pause=0.02)
    with served_locally(make_app(slow, TOKEN)) as url:
        http = httpx.Client(base_url=url, trust_env=False, timeout=0.4)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        body = request(stream=streaming)
        if streaming:
            with http.stream("POST", "/v1/messages", json=body, headers=headers) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.TimeoutException):
                http.post("/v1/messages", json=body, headers=headers)
        http.close()
        with EndpointClient(url) as client:
            deadline = time.monotonic() + 5
            while client.status()["busy"] and time.monotonic() < deadline:
                time.sleep(0.02)
            assert client.status()["busy"] == 0
        assert slow.given < 300


def test_shutting_down_ends_what_runs() -> None:
    slow = Slow(words=2000, pause=0.02)
    ended: list[str] = []

    def ask(url: str) -> None:
        with EndpointClient(url, TOKEN) as client:
            try:
                ended.append(client.message(request())["stop_reason"])
            except FinetuneError as error:
                ended.append(str(error))

    with served_locally(make_app(slow, TOKEN)) as url:
        thread = threading.Thread(target=ask, args=(url,))
        thread.start()
        assert slow.running.wait(5)
        began = time.monotonic()
    thread.join(10)
    assert time.monotonic() - began < 8 and len(ended) == 1 and slow.given < 1000


def test_the_log_tells_how_much_and_never_what(
    url: str, client: EndpointClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="gt_plugins")
    secret = "SWORDFISH"
    client.message(request(messages=[{"role": "user", "content": secret}], system=secret))
    list(client.stream(request(messages=[{"role": "user", "content": secret}], tools=[BASH])))
    post(url, request(messages=[{"role": secret, "content": secret}]))
    post(url, secret.encode())
    text = caplog.text
    assert (
        "POST /v1/messages 200" in text and "POST /v1/messages 400" in text and "7 tokens in, 3 out" in text
    )
    assert secret not in text and "Looking" not in text and TOKEN not in text


def test_counting_and_models(client: EndpointClient) -> None:
    assert client.models() == list(NAMES)
    assert client.count_tokens({"model": "gt-ft-deacon", "messages": request()["messages"]}) > 0
    with served_locally(make_app(Slow(1, 0), TOKEN)) as url, EndpointClient(url, TOKEN) as other:
        assert other.count_tokens(request()) == 3


def test_the_client_tells_failures_apart(url: str) -> None:
    with EndpointClient(url, "wrong") as client:
        assert client.health()
        with pytest.raises(UserError, match="bearer token"):
            client.message(request())
        with pytest.raises(UserError):
            list(client.stream(request()))
    with EndpointClient("http://127.0.0.1:9", TOKEN) as nobody:
        assert nobody.health() is False and nobody.status() == {}
        with pytest.raises(RetriableError, match=r"127\.0\.0\.1:9"):
            nobody.message(request())


def test_chat_completions(url: str, scripted: Scripted) -> None:
    tool = {"type": "function", "function": {"name": "Bash", "parameters": BASH["input_schema"]}}
    body = {
        "model": "gt-ft-deacon",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "patrol"},
            {"role": "assistant", "tool_calls": [{"id": "c1", "function": {"name": "Bash"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "nothing on hook"},
        ],
        "tools": [tool],
    }
    value = post(url, body, path="/v1/chat/completions").json()
    choice = value["choices"][0]
    assert choice["finish_reason"] == "tool_calls" and choice["message"]["content"] == "Looking."
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"]) == {"command": "gt hook"}
    seen = scripted.bodies[0]
    assert seen["system"] == "Be brief." and seen["tools"][0]["input_schema"] == BASH["input_schema"]
    assert seen["messages"][-1]["content"][0]["content"] == "nothing on hook"
    text = post(url, {**body, "stream": True}, path="/v1/chat/completions").text
    chunks = [json.loads(x.removeprefix("data: ")) for x in text.split("\n\n") if x.startswith("data: {")]
    assert text.rstrip().endswith("[DONE]")
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "tool_calls"
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks) == "Looking."


USER = {"role": "user", "content": "x"}
BAD_COMPLETIONS = [
    {"messages": "x"},
    {"messages": [USER], "tools": [{"name": "B"}]},
    {"messages": [USER], "tools": "B"},
    {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]},
    {"messages": [{"role": "assistant", "tool_calls": 5}]},
    {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {}}},
]


@pytest.mark.parametrize("body", BAD_COMPLETIONS)
def test_bad_chat_completions(url: str, body: dict[str, Any]) -> None:
    answer = post(url, {"model": "gt-ft-deacon", **body}, path="/v1/chat/completions")
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_an_endpoint_without_a_token_is_not_made() -> None:
    with pytest.raises(ValueError, match="needs a token"):
        make_app(Scripted(lambda _body: text_reply("x")), "")
