"""Detectors that are none of ours: detect-secrets for secrets, phonenumbers for telephones.

What they find in stored text is a suspicion, not a leak: surrogates, which look real on purpose, are left out
by their seal, and what detect-secrets' own heuristics call a false positive is left out too. The same
heuristics, and the ranges that standards set aside for examples, say which replaced values were harmless.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..scrub.judge import is_placeholder
from ..scrub.surrogates import is_surrogate

DETECTORS: tuple[str, ...] = (
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "IbmCloudIamDetector",
    "IbmCosHmacDetector",
    "IPPublicDetector",
    "JwtTokenDetector",
    "KeywordDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SoftlayerDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)
"""All of detect-secrets but those that know no format (entropy alone calls every digest a secret) and the one
that sees a header of a private key and not what follows it."""
_LINE = 4000
_PEM = re.compile(r"PRIVATE KEY(?: BLOCK)?-----(?:\s|\\+[nr])+([A-Za-z0-9+/]{32,})")
_PREFIX = 14
_EXAMPLES = re.compile(r"(?i)@(?:[\w-]+\.)*example\.(?:com|org|net)$|@(?:localhost|test|invalid)\b")
_DIGEST = re.compile(r"(?:sha\d+[-:])?[0-9a-f]{7,64}")


def suspects(text: str) -> Iterator[tuple[str, str]]:
    """(type, value) of what the detectors take for a secret or a telephone number."""
    seen: set[tuple[str, str]] = set()
    for line in text.splitlines():
        for at in range(0, len(line), _LINE):
            for found in _in_line(line[at : at + _LINE]):
                if found not in seen and not _is_ours(found[1]):
                    seen.add(found)
                    yield found
    for key in _PEM.finditer(text):
        if not is_surrogate(key[1]):
            yield "private key", key[1]
    for number in _phones(text):
        if not is_surrogate(number):
            yield "phone", number


def _in_line(line: str) -> Iterator[tuple[str, str]]:
    """By a format: the whole match (detect-secrets itself gives one group of it); by a keyword: the value."""
    from detect_secrets.plugins.base import RegexBasedDetector

    for plugin in _plugins():
        name = plugin.secret_type.lower()
        if isinstance(plugin, RegexBasedDetector):
            for pattern in plugin.denylist:
                for match in pattern.finditer(line):
                    if not is_placeholder(match[0]):
                        yield name, match[0]
            continue
        for secret in plugin.analyze_line(filename="stored", line=line, line_number=1):
            value = secret.secret_value or ""
            if len(value) >= 4 and not _is_noise(value, line):
                yield name, value


@lru_cache(maxsize=1)
def _plugins() -> tuple[Any, ...]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    kinds: list[Any] = list(get_mapping_from_secret_type_to_class().values())
    wanted = {kind.__name__: kind for kind in kinds}
    return tuple(wanted[name]() for name in DETECTORS if name in wanted)


def _is_noise(value: str, line: str) -> bool:
    from detect_secrets.filters import heuristic

    return bool(
        heuristic.is_sequential_string(value)
        or heuristic.is_potential_uuid(value)
        or heuristic.is_likely_id_string(value, line)
        or heuristic.is_templated_secret(value)
        or heuristic.is_prefixed_with_dollar_sign(value)
        or heuristic.is_indirect_reference(line)
        or heuristic.is_not_alphanumeric_string(value)
        or is_placeholder(value)
        or value.isalpha()
    )


def _is_ours(value: str) -> bool:
    """Whether ``value`` is a surrogate, perhaps behind the prefix that its type keeps."""
    if any(is_surrogate(value[at:]) for at in range(min(_PREFIX, len(value) - 4))):
        return True
    parts = re.split(r"[^A-Za-z0-9]+", value)
    return any(len(part) >= 8 and is_surrogate(part) for part in parts)


def _phones(text: str) -> Iterator[str]:
    """Numbers with a country code that somebody could be called by."""
    import phonenumbers

    if "+" not in text:
        return
    for match in phonenumbers.PhoneNumberMatcher(text, None, leniency=phonenumbers.Leniency.VALID):
        yield match.raw_string


def harmless(kind: str, value: str) -> bool:
    """Whether a value that was replaced gives nothing away: digests, ids, placeholders, examples' ranges."""
    from detect_secrets.filters import heuristic

    if kind in ("ipv4", "ipv6"):
        return _is_nobodys(value)
    if kind == "email":
        return _EXAMPLES.search(value) is not None
    if kind in ("person", "user", "host", "denied", "address", "birth_date", "phone", "coordinate"):
        return False
    return bool(
        is_placeholder(value)
        or _DIGEST.fullmatch(value)
        or (heuristic.is_potential_uuid(value) and len(value) == 36)
        or heuristic.is_sequential_string(value)
        or heuristic.is_templated_secret(value)
        or heuristic.is_not_alphanumeric_string(value)
    )


def _is_nobodys(value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return not address.is_global
