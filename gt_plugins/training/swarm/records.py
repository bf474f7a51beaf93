"""What the DHT of a swarm holds, and who may write it. The one module of the room that needs hivemind whole:
import it inside functions.

Two keys, each a dictionary of one record per peer under that peer's public key:

    training_metrics_training_metrics   how each peer is doing (TrainingMetricsV1)
    <run>_<stage>_adapters              which adapters each peer offers (PeerAdaptersV1)

Nothing else is stored. A record is taken only if its types are exactly right, the key it stands under has
signed it, the peer id in it is that key's, the operator lets that peer in, and it does not claim to live
for ever.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from hivemind.dht.crypto import RSASignatureValidator
from hivemind.dht.protocol import DHTProtocol
from hivemind.dht.schema import BytesWithPublicKey, SchemaValidator
from hivemind.dht.validation import DHTRecord, RecordValidatorBase
from hivemind.utils import get_dht_time
from pydantic.v1 import BaseModel, StrictFloat, StrictInt, StrictStr, validator

from .identity import Identity, peer_id_of

if TYPE_CHECKING:
    BytesWithPublicKeyType = bytes
else:
    BytesWithPublicKeyType = BytesWithPublicKey

METRICS_PREFIX = "training_metrics"
METRICS_KEY = "training_metrics_training_metrics"
LONGEST_LIFE = 600.0
"""Seconds that a record may live at most; a peer renews its own long before."""


class TrainingMetricsV1(BaseModel):
    """How one peer is doing."""

    peer_id: str
    role: str
    step: StrictInt
    loss: StrictFloat
    tokens_per_second: StrictFloat
    epoch: StrictInt

    @validator("loss", "tokens_per_second")
    def finite(cls, value: float) -> float:
        """NaN is a float; nobody can compare with it."""
        if not math.isfinite(value):
            raise ValueError("not finite")
        return value


class TrainingMetricSchema(BaseModel):
    """Metrics stand under signed subkeys alone."""

    training_metrics: dict[BytesWithPublicKeyType, TrainingMetricsV1]


class AdapterV1(BaseModel):
    """One adapter that a peer offers: as it came to the border of a round, before it was averaged."""

    round: StrictInt
    step: StrictInt
    """Local steps up to this border: where the learning rate stands."""
    done: StrictInt
    """Batches of the common plan that the swarm has dealt out up to this border."""
    total: StrictInt
    """Batches of the common plan."""
    rows: StrictInt
    """Rows that a batch of it has as a rule."""
    tokens: StrictInt
    """Tokens that this peer has learned from since the border before."""
    size: StrictInt
    sha256: StrictStr


class PeerAdaptersV1(BaseModel):
    """A peer, and its last adapters, the newest last."""

    peer_id: str
    role: str
    shape: StrictStr
    """Hash of the adapter's names and shapes and of the base: peers that differ in it cannot average."""
    state: StrictStr
    """``training``, ``done``, or ``left``."""
    adapters: list[AdapterV1]


class AdapterSchema(BaseModel):
    """Adapters stand under signed subkeys alone."""

    adapters: dict[BytesWithPublicKeyType, PeerAdaptersV1]


class OwnerValidator(RecordValidatorBase):
    """A record belongs to the peer whose key it stands under; that peer is let in; the record ends soon."""

    def __init__(self, allowed: frozenset[str] = frozenset()) -> None:
        self._allowed = allowed
        self._owner = re.compile(RSASignatureValidator.PUBLIC_KEY_REGEX)

    def validate(self, record: DHTRecord) -> bool:
        found = self._owner.search(record.subkey or b"")
        if found is None or record.expiration_time > get_dht_time() + LONGEST_LIFE:
            return False
        try:
            owner = peer_id_of(found[1])
            value = DHTProtocol.serializer.loads(record.value)
        except Exception:
            return False  # bytes of a stranger: whatever they break, the answer is no
        claimed = value.get("peer_id") if isinstance(value, dict) else None
        return claimed == owner and (not self._allowed or owner in self._allowed)

    @property
    def priority(self) -> int:
        """After the signature was checked and taken off (10), before the schemas (0)."""
        return 5


def adapters_prefix(experiment_prefix: str, stage: str) -> str:
    """The prefix of the key under which a stage's peers announce their adapters."""
    return f"{experiment_prefix}_{stage}"


def make_validators(
    experiment_prefix: str = "swarm",
    peer_id: str = "",
    stage: str = "",
    identity: Identity | None = None,
    allowed: frozenset[str] = frozenset(),
) -> tuple[list[RecordValidatorBase], bytes]:
    """The validators of a peer's DHT, and its own public key as subkeys carry it.

    As in node0, records are signed with hivemind's process-wide key. With an ``identity``, its key signs,
    every record must carry the peer id of the key that signed it, and with ``allowed`` only those peers'
    records are taken (``peer_id``, this peer, is one of them)."""
    signature = RSASignatureValidator(identity.private_key if identity else None)
    validators: list[RecordValidatorBase] = [
        SchemaValidator(
            AdapterSchema, allow_extra_keys=False, prefix=adapters_prefix(experiment_prefix, stage)
        ),
        signature,
    ]
    validators.append(SchemaValidator(TrainingMetricSchema, allow_extra_keys=False, prefix=METRICS_PREFIX))
    if identity is not None:
        validators.append(OwnerValidator(allowed | {peer_id} if allowed else allowed))
    return validators, signature.local_public_key
