"""A small client for an endpoint of ours: evaluation, deploy's load check and tests use it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import FinetuneError, RetriableError, UserError

_VERSION = "2023-06-01"


class EndpointClient:
    """Speaks the Messages API to ``url`` with a bearer token. Use it as a context manager, or ``close`` it.

    A busy or unreachable endpoint raises RetriableError, a refused request UserError, all others
    FinetuneError; the message carries the endpoint's own words."""

    def __init__(self, url: str, token: str = "", timeout: float = 120.0) -> None:
        import httpx

        self.url = url.rstrip("/")
        headers = {"anthropic-version": _VERSION}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> EndpointClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def message(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One whole reply."""
        return self._post("/v1/messages", {**body, "stream": False})

    def count_tokens(self, body: Mapping[str, Any]) -> int:
        """Tokens of the request as it would be rendered for the model."""
        return int(self._post("/v1/messages/count_tokens", body)["input_tokens"])

    def models(self) -> list[str]:
        """Names that the endpoint answers to."""
        return [str(m["id"]) for m in self._call("GET", "/v1/models").json()["data"]]

    def stream(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed reply. An error event raises FinetuneError."""
        import httpx

        try:
            with self._http.stream("POST", "/v1/messages", json={**body, "stream": True}) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error(response.status_code, response.text)
                for line in response.iter_lines():
                    if not line.startswith("data: "):
                        continue
                    event = json.loads(line.removeprefix("data: "))
                    if event.get("type") == "error":
                        raise FinetuneError(f"{self.url}: {event['error'].get('message', '')}")
                    yield event
        except httpx.TransportError as error:
            raise RetriableError(f"{self.url}: {error or type(error).__name__}") from None

    def health(self, timeout: float = 1.0) -> bool:
        """Whether the endpoint says that it is well, within ``timeout`` seconds."""
        return self.status(timeout).get("status") == "ok"

    def status(self, timeout: float = 1.0) -> dict[str, Any]:
        """What ``/health`` says, {} where nothing answers in time."""
        import httpx

        try:
            response = self._http.get("/health", timeout=timeout)
            value = response.json() if response.status_code == 200 else {}
        except (httpx.TransportError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._call("POST", path, body).json()

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        import httpx

        try:
            response = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise RetriableError(f"{self.url}: {error or type(error).__name__}") from None
        if response.status_code != 200:
            raise _error(response.status_code, response.text)
        return response


def _error(status: int, text: str) -> FinetuneError:
    try:
        message = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {status}"
    if status in (429, 503, 529):
        return RetriableError(message)
    return UserError(message) if 400 <= status < 500 else FinetuneError(message)
