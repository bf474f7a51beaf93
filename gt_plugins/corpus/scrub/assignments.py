"""``key = value`` in all its clothes: .env, YAML, JSON, code, flags, queries, XML, name/value pairs, prose.

A keyword such as ``token`` has been met at a place; the key around it is read, then what joins it to a
value, then the value, and :mod:`.judge` says whether that is a secret. Everything is bounded, so that the
work for one keyword does not depend on the length of the text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from .judge import (
    FOREIGN_ENDS,
    PASSWORD,
    TOKEN,
    is_code,
    is_placeholder,
    is_plainly,
    is_secret,
    key_strength,
    looks_random,
)
from .layers import Hit
from .patterns import regex
from .scan import entropy, word, word_left

KEYWORDS: tuple[str, ...] = tuple(
    (
        'motdepasse|kennwort|contrasena|senha|wachtwoord|pwd|pswd|pw|pin=|pin:|pin"|pin\\"|secret|token|credential|creds|apikey|api_key|api-key|'
        "api key|accesskey|access_key|access-key|access key|privatekey|private_key|private-key|private key|"
        "signing_key|"
        "signingkey|signing-key|encryption_key|encryptionkey|encrypt_key|master_key|masterkey|auth|account_key|"
        "accountkey|shared_key|service_key|deploy_key|license_key|licensekey|hmac_key|session_key|app_key|app-key|"
        "appkey|application_key|consumer_key|storage_key|subscription-key|subscription_key|function_key|"
        "functions-key|crypt_key|jwt|connectionstring|connection_string|connection-string|identified by|"
        "fernet_key|fernetkey|integration_key|integration-key|ingest_key|write_key|writekey|admin_key|admin-key|rpc_key|client_key|"
        "server_key|bot_key|salt_key|certificate-key|presharedkey|preshared_key|psk"
    ).split("|")
)
KEYWORDS += tuple(k.replace("_", "-") for k in KEYWORDS if "_" in k and k.replace("_", "-") not in KEYWORDS)
PASS = word("pass", "[^EIei]", 1)
"""No ``passed`` and ``passing``, which logs of tests are full of."""
MNEMONICS = ("mnemonic", "seed phrase", "seed_phrase", "seedphrase", "recovery phrase", "recovery_phrase")
VENDORS: tuple[str, ...] = tuple(
    (
        "adafruit adobe airtable algolia alibaba amplitude artifactory asana atlassian auth0 azure beamer "
        "bitbucket bittrex bugsnag cloudflare cloudinary codecov cohere coinbase confluent contentful "
        "datadog deepgram deepl deepseek discord droneci dropbox elevenlabs etsy facebook fastly finicity "
        "finnhub flickr freshbooks gitter gocardless heroku honeycomb hubspot intercom jfrog jira kraken "
        "kucoin launchdarkly linked_in linkedin lob_ logdna looker mailchimp mailgun mapbox mattermost "
        "meraki message_bird messagebird mistral mixpanel netlify new-relic new_relic newrelic nytimes okta "
        "openweather pagerduty pinecone plaid posthog privateai pusher rapidapi rollbar segment sendbird "
        "sendinblue sentry shodan snyk sonar splunk squarespace stability sumo telegr together travis "
        "twilio twitch twitter vercel voyage wandb yandex zendesk zoho"
    ).split()
)

_KEY_CHARS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_REST = regex(r"[A-Za-z0-9_-]{0,24}")
_ASSIGN = regex(
    r"(?:\\{0,8}[\"'`]|%2[27])?\*{0,2}\s{0,6}\]?\s{0,6}"
    r"(?P<typed>:\s?(?:str|String|string|&str|Optional\[str\]|str \| None|auto|var))?"
    r"\s{0,6}(?P<op>:=|=>|={1,3}|:|%3[AaDd](?:%20|\+)?(?:%2[27])?)\*{0,2}\s{0,6}"
)
_NOTHING_FOLLOWS = frozenset(".;)}{[/<&!?@#$^~")
"""What stands behind a key with no value."""
_GLANCE, _FURTHER = 40, 24
"""A type may stand between a colon and what assigns, all within so many characters from the colon."""
_SPACE = regex(r"\s")
_LEAST = {PASSWORD: 4, TOKEN: 8}
_WORD = {
    strength: regex(rf"(?!\d{{1,6}}\t)[A-Za-z0-9_]{{1,{least - 2}}}[,)]?\s")
    for strength, least in _LEAST.items()
}
"""Wherever it stands, too short for a secret: ``token: str, count: int``.

A number and a tab begin a line of a listing."""
_PAIR = regex(
    r"(?:\\{0,8}[\"'])?\s{0,4},?\s{0,4}"
    r"(?:(?:\\+n|\n)(?:[ \t+>|-]{0,16}(?:\d{1,6}(?:→|\\+u2192|\\+t|[\t:])\s{0,16})?|[^\n\x00]{1,40}?[ \t]))?"
    r"(?:\\{0,8}[\"'])?[Vv]alue(?:\\{0,8}[\"'])?\s{0,3}[:=]\s{0,3}"
)
_ARGUMENT = regex(
    r"\\{0,8}[\"']\s{0,3},\s{0,3}(?=\\{0,8}[\"'])|\(\s{0,2}(?=\\{0,8}[\"'])|(?:\\{0,8}[`*\"']{1,3})?(?:\s{1,30}[|│]\s{0,3}|[|│]\s{1,3})(?=[^|\s])"
)
_TAG = regex(r"(?:\\{0,8}[\"'])?\s?>")
_GAP = regex(
    r"[ \t]{1,40}"
    r"(?P<verb>(?:(?:(?:was|is|has been) )?(?:changed|set|reset|updated) to|is|was|as)[ \t:]{1,3})?(?=\S)"
)
_MARGIN = r"(?:[ \t]{0,8}(?:[+>|#]|-(?=[ \t])|\d{1,6}(?:→|\\+u2192|\\+t|[\t:|│-]))){0,2}"
"""What a diff, a quotation and a listing put before each line."""
_END_OF_LINE = rf"[ \t]{{0,6}}(?:\r?\n|\\+n){_MARGIN}[ \t]{{0,16}}"
_BLOCK = regex(rf"[ \t]{{0,6}}[|>][-+]?{_END_OF_LINE}(?<=[ \t])")
_ITEM = regex(rf"(?:{_END_OF_LINE}-[ \t]{{1,4}}|[ \t]{{0,6}}\[\s{{0,8}})(?=\S)")
_NEXT_ITEM = regex(rf"\\{{0,8}}[\"'`]?(?:{_END_OF_LINE}-[ \t]{{1,4}}|\s{{0,4}},\s{{0,8}})(?=\S)")
_MOST_ITEMS = 40
_LOGIN = regex(
    r"(?:\\{0,8}[\"'])?(?:\s{0,3}[:=]\s{0,3}[\w.]{0,40})?\(\s{0,8}(?:username\s?=\s?)?(\\{0,8}[\"'])[^\"'\\\n\x00]{1,100}\1"
    r"\s{0,3},\s{0,8}(?:password\s?=\s?)?(?=\\{0,8}[\"'])"
)
"""``auth=("bob", …`` and ``HTTPBasicAuth("bob", …``, as clients of HTTP take a name and a password."""
_RULE_OF_LENGTH = regex(r"[a-z_]+[:=][\d,]+")
"""``min:8``: what a form asks of a password."""
_FOR = regex(
    r"[ \t](?:for|of|to|on)[ \t](?:[^\s:=\x00]{1,40}[ \t]){0,5}?"
    r"(?:[^\s:=\x00]{1,40}[ \t]?[:=]|is|was)[ \t]{1,3}(?=\S)"
)
_FOREIGN = regex(
    r"[\"'\u201d]?\s{0,2}(?:[:=\uff1a\uff1d是为は]|=>)\s{0,2}[\"'\u201c]?"
    r"([^\s\"'\u201c\u201d,;\uff0c\u3002\uff1b]{6,128})"
)
_FORM = regex(r"\\{0,8}[\"'](?:\r?\n|\\+r\\+n|\\+n){2}")
"""Between the name of a form's field and its value, where each field is a part of its own."""
_LOGIN_PAIR = regex(r"[\w.@+-]{1,64} ?[/:,|] ?([^\s\x1b\"'`\\,;]{6,128})")
_OPENING = regex(r"[fbruFBRU]{0,2}(\\{0,8})(\"\"\"|[\"'`])")
_LITERAL_BARE = regex(r"[^\s\x1b\"'`\\\x00]{1,2048}")
_BARE = regex(
    r"(?:[^\s\x1b\"'`,;&|<>(){}\[\]\\\x00]|\$\{|\{\{|"
    r"&(?!&|amp;|lt;|gt;|quot;|#|[\w.%-]{1,40}=)(?=[^\s\x1b\"'`\\\x00])){1,2048}"
)
"""To whatever ends a word in code, a query, a shell or prose."""
_ENCODED = regex(r"(?:[A-Za-z0-9._~!*+/=-]|%(?!26|22|20|0[AaDd]|7[Dd]|2[Cc]|3[Bb])[0-9A-Fa-f]{2}){1,1024}")
_CUT = regex(r";\s?[A-Za-z][\w ]{1,30}=|[;,]$|[.:]+$|\)+$")
_NETRC = regex(r"\b(?:login|machine|user)\s+\S+\s+(?:password\s*)?$", re.IGNORECASE)
_CONFIGURE = regex(r"\b(?:set|config|configure|add|put|create)\s+(?:\S+\s+)?(?:-\S+\s+)?[\w./:@-]{0,60}$")
_LINE_START = regex(
    r"(?:^|\n|\\n)\ufeff?[ \t]*(?:[-+#>]\s{0,16}|\d{1,6}(?:→|\t|\\t|:)\s*)?"
    r"(?:export |set |ENV |ARG |- )?[\"']?$"
)
_TRAIL = ".,:;"
_VENDOR = regex(
    r"[A-Za-z0-9_. \t-]{0,24}(?:\\{0,8}[\"'`])?\]?\s{0,3}(?::=|=>|=|:)\s{0,3}"
    r"(?:\\{0,8}[\"'`])?([A-Za-z0-9][A-Za-z0-9_=/+.~-]{13,149})"
)
_DECLARED = regex(
    r"\s{1,4}\\{0,8}\"([\w-]{2,60})\\{0,8}\"\s{0,4}\{[^{}\x00]{0,400}?\bdefault\s{0,8}=\s{0,4}\\{0,8}\"([^\"\\\s]{4,512})"
)
_UUID = regex(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_HASH = regex(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SECRETIVE = regex(r"(?i)key|token|secret|auth|pass|cred|api|dsn|client|license")
_PHRASE = regex(r"[\"'`:=\s\\]{1,12}((?:[a-z]{3,8}[ ,]{1,2}){11,23}[a-z]{3,8})(?![a-z ])")
_SIGNATURE = regex(r"([A-Za-z0-9%+/=_-]{24,1024})")


class _Value(NamedTuple):
    start: int
    end: int
    text: str
    quoted: bool


def find_assignment(text: str, start: int, end: int, out: list[Hit]) -> int:
    """A keyword of :data:`KEYWORDS` stands at ``text[start:end]``; add a hit for its value, if it has one."""
    if text[end - 1] in "=:\"' ":
        end -= 1
    stop = _REST.match(text, end).end() if text[end : end + 1] in _KEY_CHARS else end  # type: ignore[union-attr]
    left = word_left(text, start, _KEY_CHARS, 60) if text[start - 1 : start] in _KEY_CHARS else start
    key = text[left:stop]
    if _holds_nothing(key, text[stop : stop + _GLANCE]) or text[left - 3 : left] == "://":
        return 0
    strength, pair = _strength(key), _is_pair(key)
    at = _ASSIGN.match(text, stop)
    if at is not None:
        if not pair and _WORD[strength].match(text, at.end()):
            return 0
        items = _items(text, at, key, strength)
        if items:
            out += items
            return items[-1].end
    login = _LOGIN.match(text, stop) if key.lower().endswith("auth") else None
    if login is not None:
        value = _value(text, login.end(), False, False)
        if value is None or not is_plainly(value.text, PASSWORD):
            return 0
        out.append(Hit(value.start, value.end, "password"))
        return value.end
    value, strict, literal = _read(text, left, stop, at, key, 0 if pair else _LEAST[strength])
    if value is None:
        return 0
    if pair and not value.quoted:
        return _login_pair(text, value.start, out)
    if strict:
        good = is_plainly(value.text, strength)
    else:
        good = is_secret(strength, key, value.text, value.quoted, literal)
    if good:
        number = value.text.isdecimal() and not value.quoted  # in JSON it has to stay one
        out.append(Hit(value.start, value.end, "number" if number else kind_of(key, strength)))
        return value.end
    return _after(value.start, value.end)


@lru_cache(maxsize=16_384)
def _holds_nothing(key: str, behind: str) -> bool:
    """Whether the key, and the few characters behind it, show that it holds no secret: ``token: str,`` and
    ``max_tokens)`` fill whole files of code. Where it takes more of the text to tell, it may."""
    strength = _strength(key)
    if not strength or behind[:1] in _NOTHING_FOLLOWS:
        return True
    at = _ASSIGN.match(behind)
    if at is None or _is_pair(key) or at.start("op") + _FURTHER > _GLANCE:
        return False
    word = _WORD[strength].match(behind, at.end())
    return word is not None and word.end() < len(behind)


def _strength(key: str) -> int:
    return key_strength(key) or (PASSWORD if key.lower() == "identified by" else 0)


def _is_pair(key: str) -> bool:
    """Of a name and a password, rather than of a value."""
    return "cred" in key.lower()


def _items(text: str, at: re.Match[str], key: str, strength: int) -> list[Hit]:
    """The secrets in a list, or in the block of lines, that is a key's value: YAML, JSON, TOML, code."""
    if at["op"] not in (":", "="):
        return []
    opening = _ITEM.match(text, at.end("op")) or _BLOCK.match(text, at.end("op"))
    found: list[Hit] = []
    for _ in range(_MOST_ITEMS):
        if opening is None:
            break
        value = _value(text, opening.end(), any(c in opening[0] for c in "-|>"), False)
        if value is None:
            break
        if is_plainly(value.text, strength) and not _RULE_OF_LENGTH.fullmatch(value.text):
            found.append(Hit(value.start, value.end, kind_of(key, strength)))
        opening = _NEXT_ITEM.match(text, value.end)
    return found


def find_foreign(text: str) -> list[Hit]:
    """Passwords behind the words of :data:`FOREIGN_ENDS`, which stand in no automaton."""
    found = []
    for name in FOREIGN_ENDS:
        at = text.find(name) if max(name) in text else -1  # a rare letter is found much faster than a word
        while at >= 0:
            match = _FOREIGN.match(text, at + len(name))
            if match is not None and is_plainly(match[1], PASSWORD):
                found.append(Hit(match.start(1), match.end(1), "password"))
            at = text.find(name, at + len(name))
    return found


def _after(start: int, end: int) -> int:
    """Where to go on after a value that is none: into a short one, but past much of a long one."""
    return start + (end - start) // 4 if end - start > 256 else 0


def _login_pair(text: str, start: int, out: list[Hit]) -> int:
    """``credentials: admin / hunter2!``."""
    pair = _LOGIN_PAIR.match(text, start)
    if pair is None or not looks_random(pair[1], 6) or is_placeholder(pair[1]):
        return 0
    out.append(Hit(pair.start(1), pair.end(1), "password"))
    return pair.end()


def find_query(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``?key=…`` and ``&code=…`` of an address."""
    value = _BARE.match(text, end)
    if value is None or len(value[0]) < 20:
        return 0
    if len(value[0]) > 512 or not looks_random(value[0], 20) or is_placeholder(value[0]):
        return _after(end, value.end())
    out.append(Hit(end, value.end(), "api_key"))
    return value.end()


def kind_of(key: str, strength: int) -> str:
    """``password``, ``api_key``, ``token`` or ``secret``."""
    if strength == PASSWORD:
        return "password"
    low = key.lower()
    return "api_key" if low.endswith("key") else "token" if "token" in low else "secret"


def find_keyed(key: str, value: str) -> list[Hit]:
    """The value of a JSON object's key: a secret by its key alone."""
    strength = key_strength(key)
    if not strength or not is_secret(strength, key, value, True, True):
        return []
    return [Hit(0, len(value), kind_of(key, strength))]


def _read(
    text: str, left: int, stop: int, at: re.Match[str] | None, key: str, least: int
) -> tuple[_Value | None, bool, bool]:
    """(value, judge strictly, its place admits only literals); no value where it has less than ``least``
    characters, which no judge takes for a secret. ``at``: what assigns it."""
    if at is not None:
        encoded = at["op"][0] == "%"
        env = at["op"] == "=" and _starts_line(text, left)
        value = _value(text, at.end(), env, encoded)
        if value is None or len(value.text) < least:
            return None, False, False
        tight = encoded or _SPACE.search(text, stop, at.end()) is None
        return value, False, (tight or env or _starts_line(text, left)) and at["typed"] is None
    tag = _TAG.match(text, stop)
    if tag is not None and (tag.end() > stop + 1 or text[left - 1 : left] == "<"):
        close = text.find("<", tag.end(), tag.end() + 300)
        value = _Value(tag.end(), close, text[tag.end() : close], True) if close > tag.end() else None
        return value, False, True
    at = _PAIR.match(text, stop)
    if at is not None:
        return _value(text, at.end(), False, False), False, True
    at = _ARGUMENT.match(text, stop)
    if at is not None:
        return _value(text, at.end(), False, False), True, False
    form = _FORM.match(text, stop) if "name=" in text[max(0, left - 8) : left] else None
    if form is not None:
        return _value(text, form.end(), True, False), False, True
    far = _FOR.match(text, stop)
    if far is not None and not key.startswith("-") and key_strength(key) == PASSWORD:
        return _value(text, far.end(), False, False), True, False
    return _after_gap(text, left, stop, key)


def _after_gap(text: str, left: int, stop: int, key: str) -> tuple[_Value | None, bool, bool]:
    """A flag's argument, ``IDENTIFIED BY 'x'``, netrc, ``configure set key value``, ``the password is x``."""
    gap = _GAP.match(text, stop)
    if gap is None:
        return None, False, False
    value = _value(text, gap.end(), False, False)
    if value is None:
        return None, False, False
    if key.startswith("-"):
        flag = value.text.startswith("-") or (value.text.isalpha() and not value.quoted)
        return (None if flag else value), False, True
    if value.quoted:
        return (
            (value if (len(key) > 4 and text[value.start - 1] != "`") or key.lower() == "password" else None),
            len(value.text) < 6,
            False,
        )
    before = text[max(0, left - 100) : left]
    if _NETRC.search(before):
        return value, False, True
    if gap["verb"] or ("_" in key and _CONFIGURE.search(before)):
        return value, True, False
    if gap.end() - stop > 2 and _starts_line(text, left):
        return value, True, False  # a table of names and values
    return (value if _is_striking(value.text) else None), True, False


def _is_striking(value: str) -> bool:
    """So unlike a word that nothing has to announce it: long and random, or of three kinds of characters."""
    if len(value) >= 20:
        parts = value.split("_") if value.isidentifier() else [value]
        return entropy(value) >= 3.3 and any(len(p) >= 16 and looks_random(p, 16) for p in parts)
    kinds = (any(map(str.islower, value)), any(map(str.isupper, value)), any(map(str.isdigit, value)))
    odd = any(c in "!@#$%^&*+?" for c in value)
    return len(value) >= 8 and kinds[2] and sum(kinds) + odd >= 3 and not is_code(value) and "/" not in value


def _starts_line(text: str, at: int) -> bool:
    """Whether only indentation, ``export``, a list dash, a diff or comment sign stands before ``at``."""
    window = text[max(0, at - 24) : at]
    return _LINE_START.search(window) is not None


def _value(text: str, at: int, env: bool, encoded: bool) -> _Value | None:
    """The literal at ``at``: to its closing quote, or to whatever ends a bare word."""
    opening = _OPENING.match(text, at)
    if opening is not None:
        return _quoted(text, opening)
    bare = (_ENCODED if encoded else _LITERAL_BARE if env else _BARE).match(text, at)
    if bare is None:
        return None
    end = bare.end()
    cut = _CUT.search(text, at, end)
    if cut is not None:
        end = cut.start()
    while end > at and text[end - 1] in _TRAIL:
        end -= 1
    if text[end : end + 1] in ("(", "[") and text[at:end].isidentifier():
        return None
    return _Value(at, end, text[at:end], False) if end > at else None


def _quoted(text: str, opening: re.Match[str]) -> _Value | None:
    start, delimiter = opening.end(), opening[1] + opening[2]
    if opening[2] == '"""':
        return None
    limit = min(len(text), start + 4100)
    other = text.find("\0", start, limit)
    limit = other if other >= 0 else limit  # what follows is another text
    close = text.find(delimiter, start, limit)
    while close > start and not opening[1] and text[close - 1] == "\\":
        close = text.find(delimiter, close + 1, limit)
    if close < 0:
        close = _BARE.match(text, start).end() if _BARE.match(text, start) else start  # type: ignore[union-attr]
    body = text[start:close]
    return _Value(start, close, body, True) if body and "\n" not in body else None


def find_declared(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``variable "db_password" { default = "…" }`` of Terraform."""
    match = _DECLARED.match(text, end)
    if match is None:
        return 0
    strength = key_strength(match[1])
    if strength and is_secret(strength, match[1], match[2], True, True):
        out.append(Hit(match.start(2), match.end(2), kind_of(match[1], strength)))
    return match.end()


def find_vendor(text: str, start: int, end: int, out: list[Hit]) -> int:
    """A provider's name with something generated assigned to it: ``ALGOLIA_ID=…``, ``"datadog": "…"``."""
    match = _VENDOR.match(text, end)
    if match is None:
        return 0
    value = match[1].rstrip(".")
    left = word_left(text, start, _KEY_CHARS, 40)
    key = text[left : match.start(1)]
    if not _SECRETIVE.search(key) and (_UUID.fullmatch(value) or " " in key or _HASH.fullmatch(value)):
        return 0
    good = looks_random(value, 14) and entropy(value) >= 3.0 and any(c.isdigit() for c in value)
    if (
        good
        and (_SECRETIVE.search(key) or len(value) >= 20)
        and not (is_code(value) or is_placeholder(value))
    ):
        out.append(Hit(match.start(1), match.start(1) + len(value), "api_key"))
        return match.end()
    return 0


def find_mnemonic(text: str, start: int, end: int, out: list[Hit]) -> int:
    """A wallet's seed phrase: 12 to 24 words after the keyword."""
    match = _PHRASE.match(text, end)
    if match is None:
        return 0
    out.append(Hit(match.start(1), match.end(1), "seed_phrase"))
    return match.end()


def find_signature(text: str, start: int, end: int, out: list[Hit]) -> int:
    """The signature of a presigned address."""
    match = _SIGNATURE.match(text, end)
    if match is None:
        return 0
    if not looks_random(match[1], 24):
        return _after(end, match.end())
    out.append(Hit(match.start(1), match.end(1), "signature"))
    return match.end()
