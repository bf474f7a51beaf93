"""Adapters from peer to peer: compressed, served under their hash, fetched whole and checked against it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import NonRetriableError, RetriableError

if TYPE_CHECKING:
    from hivemind import DHT
    from torch import Tensor

T = TypeVar("T")

KEPT = 4
"""Blobs of this peer's last rounds that are still served."""
HASH_LENGTH = 64
START_TIMEOUT = 30.0


def pack(tensors: Mapping[str, Tensor], compression: str) -> bytes:
    """An adapter as one blob: msgpack of name → hivemind's tensor message, compressed as named.

    ``compression`` is one of ``runfile.COMPRESSIONS``. Unpacking gives back what the others will see."""
    from hivemind.compression import serialize_torch_tensor
    from hivemind.proto import runtime_pb2
    from hivemind.utils import MSGPackSerializer

    kind = runtime_pb2.CompressionType.Value(compression.upper())
    parts = {
        n: serialize_torch_tensor(t.float(), kind).SerializeToString() for n, t in sorted(tensors.items())
    }
    return bytes(MSGPackSerializer.dumps(parts))


def unpack(blob: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter of a blob, fp32, with the names and shapes of ``like``.

    The blob is a stranger's: names, shapes and types are compared before anything is decompressed, and
    nothing of it is ever executed. Raises NonRetriableError saying what is wrong."""
    from hivemind.compression import deserialize_torch_tensor
    from hivemind.proto import runtime_pb2
    from hivemind.utils import MSGPackSerializer

    try:
        parts = MSGPackSerializer.loads(blob)
        messages = {str(name): runtime_pb2.Tensor.FromString(raw) for name, raw in parts.items()}
    except Exception:
        raise NonRetriableError("not an adapter") from None
    if odd := set(messages) ^ set(like):
        raise NonRetriableError(f"other tensors than ours: {min(odd)[:120]!r}")
    found = {}
    for name, message in messages.items():
        if tuple(message.size) != tuple(like[name].shape):
            wanted = tuple(like[name].shape)
            raise NonRetriableError(f"{name}: shape {tuple(message.size)} where ours is {wanted}")
        if message.dtype not in ("float32", "float16"):
            raise NonRetriableError(f"{name}: type {message.dtype[:20]!r} in place of float32")
        try:
            found[name] = deserialize_torch_tensor(message).detach().float().clone()
        except Exception:
            raise NonRetriableError(f"{name}: cannot be decompressed") from None
        if found[name].shape != like[name].shape:
            raise NonRetriableError(f"{name}: shape {tuple(found[name].shape)} after decompression")
    return found


def digest(blob: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(blob).hexdigest()


class Exchange:
    """Serves this peer's blobs and fetches others', over the DHT's own libp2p daemon, in a thread of its
    own."""

    def __init__(self, dht: DHT, name: str, may_read: Callable[[str], bool]) -> None:
        self._name, self._may_read = f"gastown-finetune/{name}/adapter", may_read
        self._blobs: OrderedDict[str, bytes] = OrderedDict()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="adapter-exchange", daemon=True)
        self._thread.start()
        try:
            self._p2p: Any = self._run(dht.replicate_p2p(), START_TIMEOUT)
            self._run(self._p2p.add_binary_stream_handler(self._name, self._serve), START_TIMEOUT)
        except TimeoutError:
            self._loop.call_soon_threadsafe(self._loop.stop)
            problem = f"this peer's DHT did not answer within {START_TIMEOUT:.0f} s"
            raise RetriableError(
                f"{problem}, so no adapter can be exchanged; start this peer again"
            ) from None

    def offer(self, blob: bytes) -> str:
        """Serve a blob from now on, with the few before it; returns its hash."""
        name = digest(blob)
        self._blobs[name] = blob
        while len(self._blobs) > KEPT:
            self._blobs.popitem(last=False)
        return name

    def fetch(self, peer_id: str, sha256: str, size: int, timeout: float) -> bytes:
        """The blob of that hash and size from a peer.

        Raises RetriableError where the peer does not deliver in time, NonRetriableError for other bytes."""
        try:
            blob = self._run(self._fetch(peer_id, sha256, size), timeout)
        except (OSError, EOFError, asyncio.IncompleteReadError) as error:
            raise RetriableError(f"its adapter cannot be fetched ({error or type(error).__name__})") from None
        except TimeoutError:
            raise RetriableError(f"its adapter did not come within {timeout:.0f} s") from None
        except Exception as error:
            raise RetriableError(f"its adapter cannot be fetched ({type(error).__name__})") from None
        if digest(blob) != sha256:
            raise NonRetriableError("sent other bytes than it announced")
        return blob

    async def _fetch(self, peer_id: str, sha256: str, size: int) -> bytes:
        from hivemind.p2p import PeerID

        _, reader, writer = await self._p2p.call_binary_stream_handler(
            PeerID.from_base58(peer_id), self._name
        )
        try:
            writer.write(sha256.encode())
            await writer.drain()
            return bytes(await reader.readexactly(size))
        finally:
            writer.close()

    async def _serve(self, info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send the blob that is asked for, to a peer that may have it; anything else gets a closed stream."""
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, UnicodeDecodeError):
            wanted = (await asyncio.wait_for(reader.readexactly(HASH_LENGTH), 10.0)).decode()
            blob = self._blobs.get(wanted)
            if blob is not None and self._may_read(str(info.peer_id)):
                writer.write(blob)
                await asyncio.wait_for(writer.drain(), 600.0)
        writer.close()

    def _run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout), self._loop)
        return future.result()

    def close(self) -> None:
        """Stop serving. The daemon belongs to the DHT and stays."""
        with contextlib.suppress(Exception):
            self._run(self._p2p.shutdown(), 5.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5.0)
