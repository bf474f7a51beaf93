"""The endpoint: a Starlette application around one responder.

One generation runs at a time, on one thread, because an engine is one state; a few requests may wait, more
are told that we are overloaded. A client that goes away stops its generation after the current token. The
log says how much and how long, never what: no prompt, no reply, no exception text that could hold either.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .. import __version__
from ..errors import FinetuneError, RetriableError, UserError
from . import openai
from .anthropic import ApiError, EventStream, check_request, message, message_id, parse_body, sse
from .responder import Body, Prepared, Reply, Responder, StagedResponder

log = logging.getLogger("gt_plugins.serving")

MAX_BODY = 16 * 1024 * 1024
MAX_WAITING = 8
PING_SECONDS = 10.0
_POLL_SECONDS = 0.25

Handler = Callable[[Request], Awaitable[Response]]


class Desk:
    """The queue before the engine: one generation at a time, ``limit`` requests in the house at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._here: set[Generation] = set()

    @property
    def busy(self) -> int:
        """Requests that are being answered or wait."""
        return len(self._here)

    def enter(self, generation: Generation) -> None:
        """Take a place. Raises ApiError 529 where the house is full."""
        if len(self._here) >= self._limit:
            raise ApiError(529, "overloaded: too many requests are waiting for this model; try again")
        self._here.add(generation)

    def leave(self, generation: Generation) -> None:
        self._here.discard(generation)

    def start(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Queue work for the engine's thread."""
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Stop what runs and drop what waits."""
        for generation in list(self._here):
            generation.stop.set()
        self._thread.shutdown(wait=False, cancel_futures=True)


class Generation:
    """One reply on its way from the engine's thread to its client."""

    def __init__(self, responder: Responder, body: Body, desk: Desk) -> None:
        self.stop = threading.Event()
        self.prepared: Prepared | None = None
        self._responder = responder
        self._body = body
        self._desk = desk
        self._items: asyncio.Queue[str | Reply | Exception | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    @property
    def input_tokens(self) -> int:
        return self.prepared.input_tokens if self.prepared is not None else 0

    async def begin(self) -> None:
        """Take a place, read the request, queue the work. Raises what is wrong with the request."""
        self._desk.enter(self)
        try:
            if isinstance(self._responder, StagedResponder):
                self.prepared = await asyncio.to_thread(self._responder.prepare, self._body)
            work = self._desk.start(self._work)
        except BaseException:
            self._desk.leave(self)
            raise
        work.add_done_callback(lambda _done: self._desk.leave(self))

    async def items(self) -> AsyncIterator[str | Reply | None]:
        """Pieces of text, at last the reply; None each time nothing has come for a while. Raises what the
        engine raised."""
        while True:
            try:
                item = await asyncio.wait_for(self._items.get(), PING_SECONDS)
            except TimeoutError:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    async def reply(self, gone: Callable[[], Awaitable[bool]]) -> Reply:
        """The whole reply; stops when the client is gone. Raises ClientDisconnect then."""
        asked = time.monotonic()
        while True:
            try:
                item = await asyncio.wait_for(self._items.get(), _POLL_SECONDS)
            except TimeoutError:
                item = ""
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Reply):
                return item
            if item is None:
                raise ApiError(500, "the endpoint is shutting down")
            if time.monotonic() - asked >= _POLL_SECONDS:
                asked = time.monotonic()
                if await gone():
                    self.stop.set()
                    raise ClientDisconnect

    def _work(self) -> None:
        """On the engine's thread."""
        try:
            for item in self._answers():
                self._give(item)
        except Exception as error:
            self._give(error)
        finally:
            self._give(None)

    def _answers(self) -> Iterator[str | Reply]:
        if self.stop.is_set():
            return
        if self.prepared is not None and isinstance(self._responder, StagedResponder):
            yield from self._responder.stream(self.prepared, self.stop.is_set)
        else:
            yield self._responder.respond(self._body)

    def _give(self, item: str | Reply | Exception | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)


class Endpoint:
    """The handlers, and what they share."""

    def __init__(
        self, responder: Responder, token: str, names: Sequence[str], waiting: int, max_body: int
    ) -> None:
        self._responder = responder
        self._token = token.encode()
        self._names = tuple(names)
        self._max_body = max_body
        self.desk = Desk(waiting + 1)

    # -- without a token --------------------------------------------------------------------------

    async def root(self, request: Request) -> Response:
        return JSONResponse({"name": "gastown-finetune", "version": __version__})

    async def health(self, request: Request) -> Response:
        status = {
            "status": "ok",
            "models": list(self._names),
            "engine": self._responder.name,
            "version": __version__,
            "busy": self.desk.busy,
            "refused_calls": getattr(self._responder, "refused", 0),
        }
        return JSONResponse(status)

    # -- with one ---------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        self._authorise(request)
        data = [{"type": "model", "id": name, "display_name": name} for name in self._names]
        ends = {"first_id": self._names[0], "last_id": self._names[-1]} if self._names else {}
        return JSONResponse({"data": data, "has_more": False, "object": "list", **ends})

    async def messages(self, request: Request) -> Response:
        body = await self._body(request)
        check_request(body)
        self._known(body["model"])
        generation = Generation(self._responder, body, self.desk)
        await generation.begin()
        if body.get("stream"):
            return _event_response(self._events(generation, body["model"]))
        reply = await self._whole(generation, request)
        return JSONResponse(message(reply, body["model"], message_id()))

    async def count_tokens(self, request: Request) -> Response:
        body = await self._body(request)
        check_request(body, counting=True)
        self._known(body["model"])
        if isinstance(self._responder, StagedResponder):
            prepared = await asyncio.to_thread(self._responder.prepare, body)
            return JSONResponse({"input_tokens": prepared.input_tokens})
        return JSONResponse({"input_tokens": len(json.dumps(body.get("messages"))) // 4})

    async def completions(self, request: Request) -> Response:
        body = openai.to_messages(await self._body(request))
        check_request(body)
        self._known(body["model"])
        generation = Generation(self._responder, body, self.desk)
        await generation.begin()
        identity = f"chatcmpl-{secrets.token_hex(12)}"
        if body.get("stream"):
            return _event_response(self._chunks(generation, body["model"], identity))
        reply = await self._whole(generation, request)
        return JSONResponse(openai.completion(reply, body["model"], identity))

    # -- inside -----------------------------------------------------------------------------------

    def _authorise(self, request: Request) -> None:
        """Raises ApiError 401 unless the token stands in one of the two headers that clients use."""
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        offered = bearer.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        if not hmac.compare_digest(offered.encode(), self._token):
            raise ApiError(401, "invalid bearer token or x-api-key")

    def _known(self, model: str) -> None:
        """Names of ours, and the client's own (it asks a small model of its maker's for titles)."""
        if self._names and model not in self._names and not model.startswith("claude-"):
            raise ApiError(404, f"model: {model[:80]}")

    async def _body(self, request: Request) -> dict[str, Any]:
        """The request's JSON, once the token is right. Raises ApiError 401, 413 or 400."""
        self._authorise(request)
        received = bytearray()
        async for chunk in request.stream():
            received += chunk
            if len(received) > self._max_body:
                raise ApiError(413, f"the request is larger than {self._max_body} bytes")
        return parse_body(bytes(received))

    async def _whole(self, generation: Generation, request: Request) -> Reply:
        started = time.monotonic()
        reply = await generation.reply(request.is_disconnected)
        _log_reply(generation, reply, started)
        return reply

    async def _events(self, generation: Generation, model: str) -> AsyncIterator[bytes]:
        started = time.monotonic()
        stream = EventStream(model)
        try:
            yield sse(stream.begin(generation.input_tokens))
            async for item in generation.items():
                if isinstance(item, Reply):
                    _log_reply(generation, item, started)
                    yield sse(stream.finish(item))
                else:
                    yield sse(stream.text(item) if item is not None else [{"type": "ping"}])
        except Exception as error:
            yield sse([_as_api_error(error).body()])
        finally:
            generation.stop.set()

    async def _chunks(self, generation: Generation, model: str, identity: str) -> AsyncIterator[bytes]:
        started = time.monotonic()
        stream = openai.ChunkStream(model, identity)
        try:
            yield stream.begin()
            async for item in generation.items():
                if isinstance(item, Reply):
                    _log_reply(generation, item, started)
                    for chunk in stream.finish(item):
                        yield chunk
                elif item is not None:
                    yield stream.text(item)
        except Exception as error:
            yield f"data: {json.dumps(_as_api_error(error).body())}\n\n".encode()
        finally:
            generation.stop.set()


def make_app(
    responder: Responder,
    token: str,
    model_names: Sequence[str] = (),
    *,
    waiting: int = MAX_WAITING,
    max_body: int = MAX_BODY,
) -> Starlette:
    """The application. ``token`` must not be empty; ``waiting`` requests may queue behind the one served."""
    if not token:
        raise ValueError("an endpoint needs a token")
    endpoint = Endpoint(responder, token, model_names, waiting, max_body)
    routes = [
        Route("/", _logged(endpoint.root)),
        Route("/health", _logged(endpoint.health)),
        Route("/v1/models", _logged(endpoint.models)),
        Route("/v1/messages", _logged(endpoint.messages), methods=["POST"]),
        Route("/v1/messages/count_tokens", _logged(endpoint.count_tokens), methods=["POST"]),
        Route("/v1/chat/completions", _logged(endpoint.completions), methods=["POST"]),
    ]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        endpoint.desk.close()

    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _no_route})


def _logged(handler: Handler) -> Handler:
    """A handler whose errors have the API's form, and that leaves one line in the log."""

    async def handle(request: Request) -> Response:
        started = time.monotonic()
        try:
            response = await handler(request)
        except ClientDisconnect:
            log.info("%s %s: the client went away", request.method, request.url.path)
            return Response(status_code=499)
        except Exception as error:
            response = _error_response(_as_api_error(error))
        spent = (time.monotonic() - started) * 1000
        quiet = request.url.path in ("/", "/health") and response.status_code == 200
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "%s %s %d %.0f ms",
            request.method,
            request.url.path,
            response.status_code,
            spent,
        )
        return response

    return handle


def _as_api_error(error: Exception) -> ApiError:
    """Any failure as an answer. What we did not foresee is logged by its kind and place only, because an
    exception's text can hold a piece of a prompt."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, UserError):
        return ApiError(400, str(error))
    if isinstance(error, RetriableError):
        return ApiError(529, f"overloaded: {error}")
    if isinstance(error, FinetuneError):
        return ApiError(500, str(error))
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    place = f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame is not None else "?"
    log.error("a request failed: %s at %s", type(error).__name__, place)
    return ApiError(500, f"internal error ({type(error).__name__})")


def _error_response(error: ApiError) -> Response:
    identity = f"req_{secrets.token_hex(12)}"
    return JSONResponse(
        {**error.body(), "request_id": identity}, status_code=error.status, headers={"request-id": identity}
    )


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _error_response(ApiError(status, f"{request.method} {request.url.path[:80]}: no such endpoint"))


def _event_response(content: AsyncIterator[bytes]) -> Response:
    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(content, media_type="text/event-stream", headers=headers)


def _log_reply(generation: Generation, reply: Reply, started: float) -> None:
    seconds = max(time.monotonic() - started, 1e-6)
    prepared = generation.prepared
    log.info(
        "reply: %d tokens in, %d out, %.2f s, %s, %d messages dropped, %d results cut",
        reply.input_tokens,
        reply.output_tokens,
        seconds,
        reply.stop_reason,
        prepared.dropped_messages if prepared else 0,
        prepared.cut_results if prepared else 0,
    )
