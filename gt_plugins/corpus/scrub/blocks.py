"""Secrets known by the structure around them: PEM blocks, JWTs, URL credentials, headers, command lines."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable

from .decoding import decode_base64
from .judge import is_code, is_placeholder, looks_random
from .layers import Hit
from .patterns import regex
from .scan import Mark, entropy, starts_word, word_left

_S = r"(?: |%(?:25)?20|\+)"
"""A space, also as addresses and forms have it."""
_PEM_HEAD = regex(
    rf"-----BEGIN{_S}(?:(?:[A-Z0-9]{{1,12}}{_S}){{0,4}}PRIVATE{_S}KEY(?:{_S}BLOCK)?|OpenVPN{_S}Static{_S}key{_S}V1)-----"
)
_PEM_END = regex(rf"-----END{_S}(?:[A-Z0-9]{{1,12}}{_S}){{0,4}}PRIVATE{_S}KEY")
_PEM_GLUE = regex(
    r"(?:[\s\"',|>#*]|%(?:25)?(?:0[9AaDd]|2[02C]|5[Cc][nrt])|\\+[nrt]|\\+(?=[\"'])|\\+u2192|[+](?=[\s\"'])|-(?!-)|(?<![A-Za-z0-9])\d{1,6}(?:→|\\+u2192|\\+t|[\t:|])|"
    r"(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset): [^\n\\\x00]{0,80})*+"
)
_B64 = r"(?:[A-Za-z0-9+/]|%(?:25)?2[BbFf])"
_PADDED = r"(?:=|%(?:25)?3[Dd]){0,2}"
_PEM_LINE = regex(rf"{_B64}{{16,4096}}{_PADDED}")
_PEM_LAST = regex(rf"(?!\+){_B64}{{1,76}}{_PADDED}")
_PEM_CHECKSUM = regex(rf"(?:=|%(?:25)?3[Dd]){_B64}{{4}}")
_PEM_ANY_LINE = regex(rf"(?<!%)(?<!%[0-9]){_B64}{{4,}}{_PADDED}")
_PEM_LIMIT = 65_536
_COUNT = regex(r"\s*\d{1,4}")
_JWK = regex(
    r"\\{0,16}[\"'](?:d|p|q|dp|dq|qi|k)\\{0,16}[\"']\s{0,3}:\s{0,3}"
    r"\\{0,16}[\"']([A-Za-z0-9_-]{20,2048})"
)
_PREFIX = regex(r"[^\n\x00]{0,60}\Z")
_JWT = regex(r"eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+){1,3}")
_JWT_RUN = regex(r"[A-Za-z0-9_-]*+")
_USERINFO = regex(r"([^\s\x1b/@:\"'<>`\\\x00]{0,128}):([^\s\x1b/\"'<>`\\\x00]{1,256})@(?=[\w.\[-])")
_USER_TOKEN = regex(r"([A-Za-z0-9_-]{20,255})(?::)?@(?=[\w.-])")
_ENCODED_INFO = regex(
    r"([\w.~-]{0,100})%3[Aa]((?:[\w.~!*+-]|%(?!40|2[Ff])[0-9A-Fa-f]{2}){1,200})%40(?=[\w.-])"
)
_BEARER = regex(
    r"(?:[ \t]{1,4}|%20|\+|\\u0020)(?:\\{0,4}[\"'])?"
    r"([A-Za-z0-9._~+/-]{8,4096}(?::[A-Za-z0-9_-]{20,512})?={0,2})"
)
_BASIC = regex(r"(?:[ \t]{1,4}|%20)(?:\\{0,4}[\"'])?([A-Za-z0-9+/_-]{6,1024}={0,2})")
_AUTHORIZATION = regex(
    r"(?:(?:\\{0,8}[\"'`])?\]?\s{0,3}[:=,]\s{0,3}(?:\\{0,8}[\"'`])?)"
    r"(?:(?i:token|bot|ssws|apikey|api-key|key|oauth|sso-key|splunk|geniekey|digest|negotiate|hmac)(?:=|\s{1,2}))?"
    r"([A-Za-z0-9._~+/:-]{8,4096}={0,2})"
)
_COOKIES = regex(r"(?:\\{0,8}[\"'`])?\s{0,3}[:=]\s{0,3}(?:\\{0,8}[\"'`])?")
_COOKIE = regex(r"[;\s]{0,4}([\w.%-]{1,64})=([^;\s\"'\\,\x00]{1,4096})")
_SESSION = regex(r"=([^;\s\"'\\,&\x00]{16,512})")
_CURL_USER = regex(
    r"(?:\s{1,3}|=)(?:\\{0,4}[\"'])?([^\s\x1b:\"'\\]{1,100}):(?:\\{0,4}[\"'])?([^\s\x1b\"'\\]{3,200})"
)
_ECHOED = regex(
    r"(?:echo|printf)\s+(?:-n\s+)?(?:(?:\\{0,4}[\"'])?%s(?:\\+n)?(?:\\{0,4}[\"'])?\s+)?(?:\\{0,4}[\"'])?([^\s\x1b\"'\\|]{4,512})(?:\\{0,4}[\"'])?\s*\|[^|\n]{0,200}$"
)
_MYSQL = regex(
    r"(?:dump|admin|import|sh)?\b[^\n|;\x00]{0,200}?\s-p(?:\\{0,4}[\"'])?([^\s\x1b\"'\\-][^\s\x1b\"'\\]{3,128})"
)
_LOGIN_P = regex(r"[^\n|;\x00]{0,200}?\s-p[ =](?:\\{0,4}[\"'])?([^\s\x1b\"'\\-][^\s\x1b\"'\\]{3,512})")
_OPTION_A = regex(r"[^\n|;\x00]{0,200}?\s-a[ =]?(?:\\{0,4}[\"'])?([^\s\x1b\"'\\-][^\s\x1b\"'\\]{3,512})")
_ARGUMENT = r"[ =]?(?:\\{0,4}[\"'])?([^\s\x1b\"'\\-][^\s\x1b\"'\\]{3,256})"
_ZIP_P = regex(rf"[^\n|;\x00]{{0,100}}?\s-P{_ARGUMENT}")
_SEVEN_P = regex(rf"[^\n|;\x00]{{0,100}}?\s-p{_ARGUMENT}")
_LDAP_W = regex(rf"[^\n|;\x00]{{0,200}}?\s-w{_ARGUMENT}")
_OPENSSL_K = regex(rf"[^\n|;\x00]{{0,200}}?\s-k{_ARGUMENT}")
_PERCENT = regex(r"[^\n|;\x00]{0,200}?\s-U\s?(?:\\{0,4}[\"'])?[^\s\x1b%\"']{1,64}%([^\s\x1b\"'\\]{3,128})")
_SUDO = regex(r"[^\n|;\x00]{0,20}?<<<\s?(?:\\{0,4}[\"'])?([^\s\x1b\"'\\]{4,128})")
_SQLPLUS = regex(r"[^\n|;\x00]{0,60}?\s[\w.]{1,32}/([^\s\x1b@\"'\\/]{4,64})@")
_SSHPASS = regex(r"\s+-p\s?(?:\\{0,4}[\"'])?([^\s\x1b\"'\\]{3,256})")
_BODY = regex(
    r"\s+\S{1,80}(?:\s+--?\w+(?:[= ]\S+)?){0,4}?\s+(?:-b|--body)[ =](?:\\{0,4}[\"'])?([^\s\x1b\"'\\]{4,512})"
)
_PGPASS = regex(
    r"(?<=[\w*]):(?P<port>\d{2,5}|\*):(?P<db>[\w*-]{1,64}):(?P<user>[\w.*-]{1,64}):(?P<password>[^\s\x1b:\"'`\\]{4,128})(?=[\s\"'`\\]|$)"
)
_GENERATED = regex(r"\S{16}|(?=\S*[a-z])(?=\S*\d)\S*[^a-z0-9_.-]")
_HOST_CHARS = string.ascii_letters + string.digits + "_.*-"
_LINE_BEGINS = regex(
    r"(?:^|[\n\x00\"'`]|\\n)[ \t]*(?:[-+#>]\s{0,16}|\d{1,6}(?:→|\\+u2192|\t|\\+t|[:|])[ \t]*){0,2}$"
)
_LINE_ENDS = regex(r"[ \t]*(?:[\r\n\x00\"'`]|\\+[nr\"]|$)")
_COMMON_PASSWORDS = frozenset("password pass passwd pwd secret token xxx xxxx pw".split())
_AWS_SECRET = regex(
    r"(?:\\{0,8}[\"']|\\+[nrt]|[\s,;:|=]){1,6}(?:/ )?(?:[\w ]{1,30}(?:\\{0,8}[\"']|[=:,\s]){1,6})?"
    r"([A-Za-z0-9+/]{40})(?![A-Za-z0-9+/=])"
)


def find_pem(text: str, start: int, end: int, out: list[Hit]) -> int:
    """The base64 lines after ``-----BEGIN … PRIVATE KEY-----``: whole, escaped, quoted, numbered, cut off,
    percent-encoded."""
    head = _PEM_HEAD.match(text, start)
    if head is None:
        return 0
    prefix = _PREFIX.search(text, max(0, start - 60), start)
    return _pem_lines(text, head.end(), out, prefix=prefix[0] if prefix is not None else "")


def find_jwk(text: str, start: int, end: int, out: list[Hit]) -> int:
    """The private numbers of a JSON web key, on either side of its ``kty``."""
    left = max(0, start - 2048, text.rfind("{", 0, start))
    right = text.find("}", end, end + 4096)
    for match in _JWK.finditer(text, left, right if right >= 0 else end + 4096):
        out.append(Hit(match.start(1), match.end(1), "private_key"))
    return right if right >= 0 else 0


def find_putty(text: str, start: int, end: int, out: list[Hit]) -> int:
    """PuTTY's ``Private-Lines: N``."""
    count = _COUNT.match(text, end)
    return _pem_lines(text, count.end(), out, any_last=True) if count is not None else 0


def _pem_lines(text: str, at: int, out: list[Hit], any_last: bool = False, prefix: str = "") -> int:
    """``prefix``: what stands before each line, as a log or a diff puts it."""
    limit = at + _PEM_LIMIT
    while at < limit:
        before = at
        at = _PEM_GLUE.match(text, at, limit).end()  # type: ignore[union-attr]
        line = _PEM_LINE.match(text, at)
        if prefix and (prefix.endswith("+") or line is None or line.end() - line.start() < 32):
            line = _prefixed(text, before, len(prefix)) or line
        if line is None:
            return _pem_tail(text, at, out, any_last)
        at = line.start()
        out.append(Hit(at, line.end(), "private_key"))
        at = line.end()
    return at


def _prefixed(text: str, at: int, prefix: int) -> re.Match[str] | None:
    """The line of a key behind as long a prefix as BEGIN had, give or take a digit of a clock or counter."""
    if text[at : at + 1] != "\n":
        return None
    for shift in (0, 1, -1, 2, -2):
        line = _PEM_LINE.match(text, at + 1 + prefix + shift)
        if line is not None and text[line.end() : line.end() + 1] in ("\n", "\r", ""):
            return line
    return None


def _pem_tail(text: str, at: int, out: list[Hit], any_last: bool) -> int:
    """The short last line and PGP's checksum line, which count only where the end of the block follows."""
    for pattern in (_PEM_LAST, _PEM_CHECKSUM):
        last = pattern.match(text, at)
        if last is None:
            continue
        after = _PEM_GLUE.match(text, last.end(), last.end() + 64).end()  # type: ignore[union-attr]
        checksum = _PEM_CHECKSUM.match(text, after)
        if text.startswith("-----END", after) or checksum is not None or any_last:
            out.append(Hit(at, last.end(), "private_key"))
            at = after
    return at


def find_pem_end(text: str, start: int, end: int, out: list[Hit]) -> int:
    """The lines before an END whose BEGIN was cut off."""
    if _PEM_END.match(text, start) is None or (
        out and out[-1].kind == "private_key" and out[-1].end > start - 80
    ):
        return 0
    floor = max(0, start - 4096)
    lines = list(_PEM_ANY_LINE.finditer(text[floor:start]))
    edge = start
    found: list[Hit] = []
    for line in reversed(lines):
        if _PEM_GLUE.fullmatch(text, floor + line.end(), edge) is None:
            break
        if len(line[0]) < 16 and found:
            break
        edge = floor + line.start()
        found.append(Hit(edge, floor + line.end(), "private_key"))
    if any(h.end - h.start >= 40 for h in found):
        out.extend(found)
    return 0


def find_jwt(text: str, start: int, end: int, out: list[Hit]) -> int:
    """Signed and encrypted tokens in compact form."""
    if not starts_word(text, start):
        return 0
    match = _JWT.match(text, start)
    if match is None:
        return _JWT_RUN.match(text, start).end()  # type: ignore[union-attr]
    out.append(Hit(start, match.end(), "jwt"))
    return match.end()


def find_url(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``scheme://user:password@host``; also a token in the user's place."""
    match = _USERINFO.match(text, end)
    if match is not None and not is_placeholder(match[2]) and match[2].lower() not in _COMMON_PASSWORDS:
        out.append(Hit(match.start(2), match.end(2), "password"))
        return match.end()
    match = _USER_TOKEN.match(text, end)
    if match is not None and looks_random(match[1], 20):
        out.append(Hit(match.start(1), match.end(1), "token"))
    return 0


def find_encoded_url(text: str, start: int, end: int, out: list[Hit]) -> int:
    """The same, percent-encoded."""
    match = _ENCODED_INFO.match(text, end)
    if match is not None and not is_placeholder(match[2]):
        out.append(Hit(match.start(2), match.end(2), "password"))
    return 0


def find_bearer(text: str, start: int, end: int, out: list[Hit]) -> int:
    match = _BEARER.match(text, end)
    if match is not None and _credential(match[1]):
        out.append(Hit(match.start(1), match.start(1) + len(match[1].rstrip(".")), "bearer_token"))
        return match.end()
    return 0


def find_basic(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``Basic`` with base64 of ``user:password``."""
    match = _BASIC.match(text, end)
    if match is None:
        return 0
    raw = decode_base64(match[1])
    if (
        raw is not None
        and b":" in raw[:200]
        and raw.isascii()
        and not is_placeholder(raw.decode().partition(":")[2])
    ):
        out.append(Hit(match.start(1), match.end(1), "basic_auth"))
        return match.end()
    return 0


def find_authorization(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``Authorization: token …`` and other schemes, or none."""
    match = _AUTHORIZATION.match(text, end)
    if (
        match is None
        or not _credential(match[1])
        or is_code(match[1])
        or text[match.end() : match.end() + 1] == "("
    ):
        return 0
    raw = decode_base64(match[1])
    kind = "basic_auth" if raw is not None and raw.isascii() and re.match(rb"[\w.@+-]+:\S", raw) else "token"
    out.append(Hit(match.start(1), match.start(1) + len(match[1].rstrip(".")), kind))
    return match.end()


def _credential(value: str) -> bool:
    value = value.rstrip(".")
    return not is_placeholder(value) and looks_random(value) and (len(value) >= 16 or entropy(value) >= 2.8)


def find_cookies(text: str, start: int, end: int, out: list[Hit]) -> int:
    """Every generated value of a Cookie or Set-Cookie header."""
    opening = _COOKIES.match(text, end)
    if opening is None:
        return 0
    at = opening.end()
    for _ in range(40):
        pair = _COOKIE.match(text, at)
        if pair is None:
            break
        if looks_random(pair[2], 12) and entropy(pair[2]) >= 2.8 and not is_placeholder(pair[2]):
            out.append(Hit(pair.start(2), pair.end(2), "cookie"))
        at = pair.end()
    return at


def find_session_cookie(text: str, start: int, end: int, out: list[Hit]) -> int:
    """A session cookie by its well-known name."""
    match = _SESSION.match(text, end)
    if match is not None and looks_random(match[1], 16):
        out.append(Hit(match.start(1), match.end(1), "cookie"))
    return 0


def find_curl_user(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``curl -u user:password``; ``docker run -u 1000:1000`` is none."""
    match = _CURL_USER.match(text, end)
    if match is None or is_placeholder(match[2]) or (match[1].isdecimal() and match[2].isdecimal()):
        return 0
    line = text[max(0, start - 300) : start].rpartition("\n")[2].lower()
    if any(tool in line for tool in ("curl", "http", "wget", "svn", "lftp", "ftp")):
        out.append(Hit(match.start(2), match.end(2), "password"))
    return 0


def find_echoed(text: str, start: int, end: int, out: list[Hit]) -> int:
    """``echo PASSWORD | docker login --password-stdin``."""
    match = _ECHOED.search(text, max(0, start - 700), start)
    if match is not None and not is_placeholder(match[1]):
        out.append(Hit(match.start(1), match.end(1), "password"))
    return 0


def _command(pattern: re.Pattern[str], kind: str = "password"):  # type: ignore[no-untyped-def]
    def find(text: str, start: int, end: int, out: list[Hit]) -> int:
        match = pattern.match(text, end)
        if match is not None and not is_placeholder(match[1]):
            out.append(Hit(match.start(1), match.end(1), kind))
        return 0

    return find


def find_pgpass(text: str, start: int, end: int, out: list[Hit]) -> int:
    """A line of .pgpass, ``host:port:database:user:password``: behind PostgreSQL's ports any password where
    the line is nothing else, behind others one that looks generated."""
    match = _PGPASS.match(text, start)
    if match is None or is_placeholder(match["password"]):
        return 0
    value = match["password"]
    if match["port"] in _POSTGRES:
        good = looks_random(value, 5) or _is_pgpass_line(text, match)
    else:
        named = not (match["db"][0].isdecimal() or match["user"][0].isdecimal())
        good = (
            named
            and _GENERATED.match(value) is not None
            and looks_random(value, 8)
            and not is_code(value)
            and _is_pgpass_line(text, match)
        )
    if good:
        out.append(Hit(*match.span("password"), "password"))
    return 0


def _is_pgpass_line(text: str, match: re.Match[str]) -> bool:
    """Whether nothing but a host stands before it in its line, and nothing behind it."""
    if match["password"].lower() in _COMMON_PASSWORDS or _LINE_ENDS.match(text, match.end()) is None:
        return False
    left = word_left(text, match.start(), _HOST_CHARS, 100)
    return left < match.start() and _LINE_BEGINS.search(text, max(0, left - 40), left) is not None


def find_aws_secret(text: str, start: int, end: int, out: list[Hit]) -> int:
    """The secret key beside an access key id (a CSV download, ``aws configure``, a note)."""
    match = _AWS_SECRET.match(text, start + 20)
    if match is not None and looks_random(match[1], 40) and not re.fullmatch("[0-9a-f]{40}", match[1]):
        out.append(Hit(match.start(1), match.end(1), "aws_secret_key"))
    return 0


_POSTGRES = ("5432", "6543")
_PGPASS_PORTS: tuple[str | Mark, ...] = (
    *(f":{port}:" for port in (*_POSTGRES, "*")),
    *(Mark(f":[0-9]{{{digits}}}:[A-Za-z_*]", digits + 3) for digits in (4, 5)),
)
"""A shorter one stands in every time of day, and behind every line that a search found."""

FINDERS: tuple[tuple[Iterable[str | Mark], Callable[..., int]], ...] = (
    (("-----begin",), find_pem),
    (("-----end",), find_pem_end),
    (("private-lines:",), find_putty),
    (('kty"', 'kty\\"', "kty'"), find_jwk),
    (("eyj",), find_jwt),
    (("://", ":\\/\\/"), find_url),
    (("%3a%2f%2f",), find_encoded_url),
    (("bearer",), find_bearer),
    (("basic",), find_basic),
    (("authorization",), find_authorization),
    (("cookie",), find_cookies),
    (
        ("jsessionid", "phpsessid", "connect.sid", "_gitlab_session", "sessionid", "laravel_session"),
        find_session_cookie,
    ),
    ((" -u", "--user", "--proxy-user"), find_curl_user),
    (("password-stdin",), find_echoed),
    (("mysql", "mariadb"), _command(_MYSQL)),
    (
        ("docker login", "podman login", "helm registry login", "oc login", "az login", "az acr login"),
        _command(_LOGIN_P),
    ),
    (("redis-cli",), _command(_OPTION_A)),
    (("zip",), _command(_ZIP_P)),
    (("7z", "mongo"), _command(_SEVEN_P)),
    (("ldapsearch", "ldapmodify", "ldapadd", "ldapwhoami"), _command(_LDAP_W)),
    (("openssl enc",), _command(_OPENSSL_K)),
    (("smbclient", "rpcclient"), _command(_PERCENT)),
    (("sqlplus",), _command(_SQLPLUS)),
    (("sudo -s",), find_echoed),
    (("sudo -s",), _command(_SUDO)),
    (("sshpass",), _command(_SSHPASS)),
    (("secret set",), _command(_BODY, "secret")),
    (_PGPASS_PORTS, find_pgpass),
    (("akia", "asia"), find_aws_secret),
)
"""(keywords in lower case, what to do where one stands)."""
