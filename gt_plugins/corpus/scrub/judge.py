"""Is this key's value a secret, and is this value one or only a placeholder?

Shared by every rule that has no format to rely on: assignments, headers, flags, map keys.
"""

from __future__ import annotations

import re
from functools import lru_cache

from .patterns import regex
from .scan import entropy

PASSWORD, TOKEN = 2, 1
"""Strength of a key: a password may be any word, a token must look random."""

_CAMEL = regex(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = regex(r"[Bb](?:ase|ASE)?(?:64|32)|[A-Za-z]+|\d+")
_QUALIFIERS = frozenset(
    "value val plain text plaintext raw base64 b64 base32 b32 prod production dev staging stage test testing "
    "live old new current default base string str primary secondary main backup sandbox local ci root admin "
    "here".split()
)
_PASSWORD_WORDS = frozenset(
    "password passwd passwort passphrase passcode pwd pass pw pswd psw pin mysqlpwd motdepasse "
    "kennwort contrasena senha wachtwoord passwords passwds passphrases".split()
)
_TOKEN_WORDS = frozenset("secret token apikey credential credentials creds jwt authorization auth".split())
_KEY_PAIRS = frozenset(
    "api access secret private signing encryption encrypt master auth account shared service deploy "
    "license hmac session app application consumer storage subscription function ssh webhook crypt "
    "cipher decryption salt integration ingest write admin rpc client server bot certificate "
    "preshared fernet".split()
)
FOREIGN: tuple[str, ...] = tuple(
    "пароль Пароль 密码 密碼 口令 パスワード 비밀번호 hasło Hasło contraseña Contraseña "
    "lösenord Lösenord".split()
)
"""Passwords in scripts and with letters that no keyword has."""
FOREIGN_ENDS: tuple[str, ...] = tuple(
    dict.fromkeys(name[1:] if name[0].lower() != name[0].upper() else name for name in FOREIGN)
)
"""The same whatever the case of the first letter."""
_TOKENS = frozenset("access refresh auth api bearer id session secret".split())
_NO_TOKEN = frozenset(
    "next page continuation sync pad eos bos unk mask sep cls special stop start end added each per "
    "last first prev previous cancellation lexer parser syntax design max min num total cursor image "
    "chunk sentence".split()
)
_SQUASHED: tuple[str, ...] = (
    "apikey",
    "secretkey",
    "accesskey",
    "authtoken",
    "accesstoken",
    "clientsecret",
    "privatekey",
)
_SQUASHED += (
    "refreshtoken",
    "idtoken",
    "sessiontoken",
    "bearertoken",
    "sharedaccesskey",
    "accountkey",
    "apitoken",
)
_SQUASHED += (
    "apisecret",
    "appsecret",
    "signingkey",
    "encryptionkey",
    "masterkey",
    "licensekey",
    "connectionstring",
)
_PASSWORD_ENDS = ("password", "passwd", "passphrase", "pgpass", "dbpass", "userpass", "rootpass")

_TEMPLATE = regex(
    r"\$(?:[A-Za-z_\d]|$)|%[A-Za-z_]+%$|<[^>]*>?$|\{[^{}]*\}?$|\[[^\]]*\]?$|@\w+@$|%[-+#0 ]?[a-zA-Z]$|"
    r":[a-z_]+$|#\{|\(|\.\.\.|…"
)
_TEMPLATE_PARTS = ("${", "$(", "{{", "<%", "%(")
_FILLER = regex(
    r"(?i)^(?:[x*._•#-]+|x{3,}.*|0+|1+|null|none|nil|true|false|undefined|empty|default|yes|no|na|tbd|"
    r"string|str|bool|boolean|int|integer|number|object|array|bytes|text|optional|required|hidden|masked|any|"
    r"void|self|this|input|prompt|stdin|env|vault|secret|secrets|token|tokens|password|passwords|passwd|pwd|pass|"
    r"key|keys|api[_-]?key|apikey|credentials?|user(?:name)?|redacted|removed|example|sample|placeholder|"
    r"invalid|missing|wrong|incorrect|expired|disabled|enabled|unknown|changed|reset|plain|basic|bearer|"
    r"change[_-]?me|replace[_-]?me|fix[_-]?me|dummy|fake|foo|bar|baz|foobar|value|field|label|type|"
    r"authentication|authorization|auth|login|please|must|should|cannot|is|was|to|the|and|or|for|with|in|of|from)$"
)
_FILLER_PART = regex(
    r"(?i)your[_-]|_your\b|<your|\byour|placeholder|redacted|change[_-]?me|replace[_-]?(?:me|with|this)|"
    r"example[_-]?(?:key|token|secret|password)|insert[_-]|x{6,}|\*{4,}|\.{4,}|…|[_-]here$|^here|not[_-]set"
)
_FILLER_WORDS: tuple[str, ...] = ("your", "placeholder", "redacted", "change", "replace", "example", "insert")
_FILLER_WORDS += ("xxxxxx", "****", "....", "…", "here", "not")
"""One of them stands wherever ``_FILLER_PART`` finds something."""
_DIGITS = frozenset("0123456789")
_SPACE = regex(r"\s")
_CODE = regex(
    r"^(?:process\.env|os\.|env\.|self\.|this\.|config\.|settings\.|secrets\.|vars\.|request\.|req\.|args\.|opts?\.|"
    r"options\.|props\.|ctx\.|import\.meta|System\.|ENV\[|getenv|var\.|local\.|data\.|module\.|steps\.|github\.)|"
    r"^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+$|^[A-Za-z_][\w.]*\([^@#%^*&!+]*$|^[A-Za-z_]\w*\[|^&?[A-Za-z_]\w*::"
)
_BASE64_SLASH = regex(r"/[A-Za-z0-9+/]{15,}={0,2}")
_PATH = regex(r"^(?:~|\.{1,2})?/[\w.@~+-]+(?:/[\w.@~+-]*)*$|^[A-Za-z]:\\|^file:")
_VERSION = regex(r"^[~^v=]{0,2}\d+(?:\.\d+){1,3}(?:[-+][\w.]+)?$")
_SHORT_KEY = regex(r"(?i)^(?:pass|pwd|pw|pin)\d*$")
_URL = regex(r"^[a-z][a-z0-9+.-]{1,12}://")
_WORDS = regex(r"^[A-Za-z]+(?:[-_ .:/][A-Za-z]+)*$")
_IDENT = regex(r"^[A-Za-z]+\d{0,2}(?:[-_.:/][A-Za-z]+\d{0,2})*[-_]?\d{0,2}$")


@lru_cache(maxsize=8192)
def key_strength(name: str) -> int:
    """0 for a key that holds no secret, :data:`TOKEN` or :data:`PASSWORD` for one that does.

    The last word decides (``password_hash`` is a hash, ``token_count`` a count), after qualifiers such as
    ``_PROD`` or ``_BASE``; ``max_tokens`` counts tokens and ``next_page_token`` is no credential.
    """
    words = [w.lower() for w in _WORD.findall(_CAMEL.sub("_", name))]
    while len(words) > 1 and (words[-1] in _QUALIFIERS or words[-1].isdecimal()):
        words.pop()
    if not name.isascii() and name.strip() in FOREIGN:
        return PASSWORD
    if not words:
        return 0
    last, before = words[-1], words[-2] if len(words) > 1 else ""
    if last in _PASSWORD_WORDS or last.endswith(_PASSWORD_ENDS):
        return PASSWORD if last != "pin" or before in ("", "card", "sim", "user") else 0
    if last in _TOKEN_WORDS:
        return 0 if before in _NO_TOKEN and last == "token" else TOKEN
    if last in ("key", "keys") and before in _KEY_PAIRS:
        return TOKEN
    if last == "secrets" or (last == "tokens" and before in _TOKENS):
        return TOKEN
    if (before, last) in {
        ("connection", "string"),
        ("conn", "str"),
        ("seed", "phrase"),
        ("recovery", "phrase"),
    }:
        return TOKEN
    if last in ("mnemonic", "cookie", "dsn", "psk", "presharedkey") or words == ["secret", "id"]:
        return TOKEN
    return TOKEN if last.endswith(_SQUASHED) or (len(last) > 8 and last.endswith(("token", "secret"))) else 0


@lru_cache(maxsize=4096)
def is_placeholder(value: str) -> bool:
    """Whether ``value`` stands for a secret without being one: a variable, a template, ``<your-key>``."""
    low = value.lower()
    return bool(
        _TEMPLATE.match(value)
        or any(part in value for part in _TEMPLATE_PARTS)
        or _FILLER.match(value)
        or (any(word in low for word in _FILLER_WORDS) and _FILLER_PART.search(value))
        or len(set(low)) <= 2
    )


def looks_random(value: str, least: int = 8) -> bool:
    """Whether ``value`` could be generated: letters and digits, or case mixed within, and enough of it."""
    if len(value) < least or _SPACE.search(value):
        return False
    if _WORDS.match(value):
        return len(value) >= 20 and _mixed_case(value) and entropy(value) >= 3.6
    if _DIGITS.isdisjoint(value):
        return not value.isalnum() and _mixed_case(value) and entropy(value) >= 3.2
    if not any(c.isalpha() for c in value):
        return len(value) >= 16 and value.isdecimal()
    return entropy(value) >= (2.3 if len(value) < 12 else 2.6 if len(value) < 20 else 3.0)


def _mixed_case(value: str) -> bool:
    """Capitals strewn about, as they are not in ``CamelCase``."""
    runs = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", value)
    return len(runs) >= 4 and sum(map(len, runs)) < 3 * len(runs)


def _is_generated(part: str) -> bool:
    digits = sum(c.isdecimal() for c in part)
    return (digits >= 3 and part.isalnum()) or (digits > 0 and _mixed_case(part))


def is_code(value: str) -> bool:
    """An expression, a path or an address: not a literal secret."""
    if _CODE.match(value):
        return not any(len(part) >= 20 and _is_generated(part) for part in value.split("."))
    return bool((_PATH.match(value) and not _begins_with_slash(value)) or _URL.match(value))


def _begins_with_slash(value: str) -> bool:
    """Whether ``value`` is base64 that only begins as a path does, as one of 64 do."""
    if not _BASE64_SLASH.fullmatch(value) or _DIGITS.isdisjoint(value):
        return False
    steps = (step for step in value.split("/") if len(step) >= 10)
    return any(_mixed_case(step) and not (step.islower() or step.isupper()) for step in steps)


def is_secret(strength: int, key: str, value: str, quoted: bool, literal: bool) -> bool:
    """Judge the value of a key of ``strength``.

    ``quoted``: it stood in quotes or was a JSON value; ``literal``: its place admits no expression
    (.env, YAML, a command flag), so that a bare word is a value and no variable.
    """
    if is_placeholder(value) or is_code(value):
        return False
    if strength == PASSWORD:
        return _is_password(key, value, quoted, literal)
    if len(value) > 2048 or (not quoted and key.lower().endswith(value.lower())):
        return False
    if not quoted and not literal and _IDENT.match(value) and not _mixed_case(value):
        return False
    return looks_random(value)


def is_plainly(value: str, strength: int) -> bool:
    """Whether ``value`` is a secret of a key, though nothing says what it is or where it ends."""
    least = 6 if strength == PASSWORD else 12
    return looks_random(value, least) and not (is_placeholder(value) or is_code(value))


def _is_password(key: str, value: str, quoted: bool, literal: bool) -> bool:
    if quoted and "phrase" in key.lower() and len(value.split()) >= 3:
        return len(value) <= 256
    if not 4 <= len(value) <= 256 or any(c.isspace() for c in value) or _VERSION.match(value):
        return False
    if _SHORT_KEY.match(key) and not looks_random(value, 5):
        return False  # "PASS: gate-one", "second pass: validate"
    if value.lower().startswith(key.lower()) and _IDENT.match(value):
        return False
    if value.isalpha() and "passw" in value.lower():
        return False
    if value.isalpha():
        if quoted:
            return len(value) >= 6 and not value.istitle()
        return literal and len(value) >= 6 and not value.istitle()
    if _WORDS.match(value) and not literal:
        return quoted and len(value) >= 6 and "pass" not in value.lower()
    return quoted or literal or not value.isidentifier() or any(c.isdigit() for c in value)
