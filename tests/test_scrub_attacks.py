"""Ways to get a secret past the scrubber: encoded, split, in odd places, lists, tables, prose, scripts."""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
import urllib.parse
from collections.abc import Callable

import pytest
from scrub_helpers import scrubber

from gt_plugins.corpus.scrub.engine import Scrubber
from gt_plugins.corpus.scrub.exact import exact_person, exact_user
from gt_plugins.corpus.scrub.policy import build_policy

KEY = "ghp_1B4a9cD2eF6gH8iJ0kLmN3oPqR5sT7uV1w2X"
PASSWORD = "Tr0ub4dor&3x!zq"
PAIR = base64.b64encode(f"alice:{PASSWORD}".encode()).decode()


def b64(text: str, encoding: str = "utf-8") -> str:
    return base64.b64encode(text.encode(encoding)).decode()


def nested(value: object, times: int) -> str:
    for _ in range(times):
        value = {"a": json.dumps(value)}
    return json.dumps(value)


ENCODED = {
    "hexadecimal escapes": "".join(f"\\x{ord(c):02x}" for c in KEY),
    "unicode escapes": "".join(f"\\u{ord(c):04x}" for c in KEY),
    "decimal entities": "".join(f"&#{ord(c)};" for c in KEY),
    "percent signs": "".join(f"%{ord(c):02X}" for c in KEY),
    "hexadecimal digits": KEY.encode().hex(),
    "hexadecimal digits of an assignment": f"password={PASSWORD}".encode().hex().upper(),
    "base64 of UTF-16": b64(f'$t="{KEY}"', "utf-16-le"),
    "base64 with letters beyond ASCII": b64(f"Schlüssel token={KEY}"),
    "base64 twice": b64(b64(f"token={KEY}")),
    "address in base64": b64(f"postgres://u:{PASSWORD}@h/x"),
}
"""What must not be left of each, whatever stands around it."""
HIDDEN = {
    "six times nested": (nested({"password": PASSWORD}, 6), PASSWORD),
    "pair in a here-document": (
        json.dumps({"command": "cat > f <<EOF\n" + json.dumps({"auth": PAIR}) + "\nEOF"}),
        PAIR,
    ),
    "no width inside": (KEY[:10] + "\u200b" + KEY[10:], KEY[10:]),
    "soft hyphen inside": (KEY[:10] + "\xad" + KEY[10:], KEY[10:]),
    "colour inside": (f"{KEY[:10]}\x1b[1m{KEY[10:]}\x1b[0m", KEY[10:]),
    "continued line": (f"export TOKEN={KEY[:20]}\\\n{KEY[20:]}", KEY[20:]),
    "joined strings": (f'token = "{KEY[:18]}" + "{KEY[18:]}"', KEY[18:]),
    "joined strings of a shell": (f"T='{KEY[:18]}''{KEY[18:]}'", KEY[18:]),
    "behind a name": (f"backup_{KEY}.txt", KEY),
    "list of JSON": (json.dumps({"passwords": [PASSWORD, "Qw7zPl9mXv2"]}), "Qw7zPl9mXv2"),
    "list of YAML": (f"passwords:\n  - {PASSWORD}\n  - Qw7zPl9mXv2\n", "Qw7zPl9mXv2"),
    "block of YAML": (f"password: |\n  {PASSWORD}\n", PASSWORD),
    "folded block of YAML": (f"db:\n  password: >-\n    {PASSWORD}\n", PASSWORD),
    "words": ('passphrase: "correct horse battery staple"', "correct horse battery staple"),
    "prose": (f"the password for the staging db is {PASSWORD}", PASSWORD),
    "prose with a colon": (f"password for staging: {PASSWORD}", PASSWORD),
    "CSV": (f"name,url,username,password\r\nx,https://x.io,alice,{PASSWORD}\r\n", PASSWORD),
    "CSV in JSON": (json.dumps({"out": f"user,password\nalice,{PASSWORD}\n"}), PASSWORD),
    "Markdown": (f"| user | password |\n|---|---|\n| alice | {PASSWORD} |", PASSWORD),
    "tabs": (f"user\tpassword\tnote\nalice\t{PASSWORD}\tx", PASSWORD),
    "printf": (f"printf '%s\\n' '{PASSWORD}' | docker login -u x --password-stdin", PASSWORD),
    "form": (f'Content-Disposition: form-data; name="password"\r\n\r\n{PASSWORD}\r\n--x', PASSWORD),
    "Spanish": (f"contraseña: {PASSWORD}", PASSWORD),
    "Russian": (f"пароль: {PASSWORD}", PASSWORD),
    "Chinese": (f"密码：{PASSWORD}", PASSWORD),
}


KEY_LINES = ["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7/Wq+LkZ3sTnX", "a9Fq/Zr+T8vYw2Lm=="]
BLOCK = "\n".join(["-----BEGIN PRIVATE KEY-----", KEY_LINES[0], *KEY_LINES, "-----END PRIVATE KEY-----"])
PERCENT: dict[str, Callable[[str], str]] = {
    "spaces as %20": lambda text: urllib.parse.quote(text, safe=""),
    "spaces as plus": urllib.parse.quote_plus,
    "slashes as they are": urllib.parse.quote,
    "lower case": lambda text: re.sub("%..", lambda m: m[0].lower(), urllib.parse.quote(text, safe="")),
    "twice": lambda text: urllib.parse.quote(urllib.parse.quote(text, safe=""), safe=""),
}


@pytest.mark.parametrize("way", PERCENT)
def test_a_key_in_an_address_goes_and_stays_a_key(way: str) -> None:
    told = PERCENT[way](BLOCK)
    for text in (f"POST /k?key={told}&x=1", json.dumps({"body": f"a={told}"})):
        fresh, counts = scrubber().text(text)
        assert counts == {"private_key": 3}
        plain = urllib.parse.unquote_plus(fresh)
        plain = urllib.parse.unquote_plus(plain) if way == "twice" else plain
        assert not any(line in plain for line in KEY_LINES)
        assert scrubber().text(BLOCK)[0] in plain, "other surrogates than those of the key as it is"
        assert scrubber().text(fresh)[0] == fresh
    begun = told[len(told) // 8 :]
    assert KEY_LINES[1] not in urllib.parse.unquote_plus(scrubber().text(begun)[0]), "its BEGIN was cut off"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"./run --password {PASSWORD} --x 1", PASSWORD),
        ("[smtp]\npass = sK20FK!DUzPw3", "sK20FK!DUzPw3"),
        ("aws_secret_access_key = o85bbI8ynBboCFoooDsb1JPl/3hvUT7B1QtL42GL", "o85bbI8ynBboCFoooDsb1JPl"),
        ("curl -u admin:'z1Awvq#cdNYq2' https://x.io", "z1Awvq#cdNYq2"),
        ("Author: Chiara Beaumont <chiara@corp.io>", "Chiara Beaumont"),
        ("card: 4111 1111 1111 1111", "4111 1111 1111 1111"),
        ("lat/lon: 44.595425, 5.947509", "44.595425"),
    ],
)
def test_what_a_form_holds_goes(text: str, secret: str) -> None:
    told = urllib.parse.quote_plus(text)
    for whole in (told, f"curl -d 'a=1&q={told}&b=2' x.io", json.dumps({"body": f"q={told}"})):
        fresh = scrubber().text(whole)[0]
        assert secret not in urllib.parse.unquote_plus(fresh)
        assert scrubber().text(fresh)[0] == fresh and len(fresh.split()) == len(whole.split())


BOT = "448858171:AAHvXq3Zr9wTn5LkB7yPf2Dm8sGc4Vj1RtE"


@pytest.mark.parametrize(
    "text", [BOT, f"https://api.telegram.org/bot{BOT}/getMe", f"TELEGRAM_BOT_TOKEN={BOT}"]
)
def test_a_bot_has_another_number_and_key(text: str) -> None:
    for written in (text, urllib.parse.quote(text, safe=""), b64(f"curl {text} # once")):
        fresh = scrubber().text(written)[0]
        assert scrubber().text(fresh)[0] == fresh
        plain = base64.b64decode(fresh).decode() if written[:4] == "Y3Vy" else urllib.parse.unquote(fresh)
        assert BOT not in plain and BOT[:9] not in plain and BOT[12:] not in plain
        found = re.search(r"(?<!\d)\d{9}:AA[\w-]{33}(?![\w-])", plain)
        assert found and found[0] == scrubber().text(BOT)[0]


WRITTEN = {
    "jane.roe@acme.com": (
        "q=jane.roe%40acme.com",
        '{"a":"jane.roe\\u0040acme.com"}',
        "to jane.roe&#64;acme.com",
    ),
    "AKIAQ4ZT7JVXN2RLKDWM": ("".join(f"%{ord(c):02X}" for c in "AKIAQ4ZT7JVXN2RLKDWM"),),
    "password=pa$$w0rd1": ("?password=pa%24%24w0rd1&x=1", "postgres://u:pa%24%24w0rd1@db/x"),
    "password=Größe9!x": ("https://u:Gr%C3%B6%C3%9Fe9%21x@h/",),
    "ether 3c:22:fb:9a:10:7e": ("ether 3c%3A22%3Afb%3A9a%3A10%3A7e",),
    "by Renske Waldau": ("by Renske%20Waldau",),
}


@pytest.mark.parametrize("plain", WRITTEN)
def test_the_same_original_has_one_surrogate_however_it_is_written(plain: str) -> None:
    fresh = scrubber().text(plain)[0]
    assert fresh != plain
    value = re.split("[= ]", fresh)[-1]
    for text in WRITTEN[plain]:
        told = scrubber().text(text)[0]
        read = html.unescape(urllib.parse.unquote(told)).replace("\\u0040", "@")
        assert value in read, told
        assert scrubber().text(told)[0] == told, "scrubbing twice changes something"
    sign = next(iter({"@", ":"} & set(value)), None)
    if sign and sign not in WRITTEN[plain][0]:
        assert sign not in scrubber().text(WRITTEN[plain][0])[0], "written otherwise than the original"


@pytest.mark.parametrize(
    "before", ["+", "-", "--", "_", "  -", "%20", "q%3D", "see%20", "long%20words%20" * 9]
)
@pytest.mark.parametrize("at", ["@", "%40"])
def test_an_address_ends_where_a_sign_or_an_escape_stands(before: str, at: str) -> None:
    fresh = scrubber().text("jane.roe@acme.com")[0].replace("@", at)
    assert scrubber().text(f"{before}jane.roe{at}acme.com%20 x")[0] == f"{before}{fresh}%20 x"
    assert scrubber().text(f"a\n{before}jane.roe{at}acme.com\nb")[0] == f"a\n{before}{fresh}\nb"


@pytest.mark.parametrize("way", sorted(ENCODED))
def test_an_encoded_secret_goes(way: str) -> None:
    told = ENCODED[way]
    for text in (told, f"echo {told} | decode", json.dumps({"command": f"x {told}"})):
        fresh, counts = scrubber().text(text)
        assert told not in fresh and counts
        assert scrubber().text(fresh)[0] == fresh


@pytest.mark.parametrize("way", sorted(HIDDEN))
def test_a_hidden_secret_goes(way: str) -> None:
    text, secret = HIDDEN[way]
    for value in (text, {"content": [{"text": text}]}):
        fresh, counts = scrubber().value(value)
        assert secret not in str(fresh) and counts
        assert scrubber().value(fresh)[0] == fresh


def test_keys_of_objects_and_lists_under_keys() -> None:
    value = {KEY: 1, "tokens": {KEY: {"user": "x"}}, "api_keys": ["mK7pq2Lw9xTz4vB8nM1c"]}
    fresh, counts = scrubber().value(value)
    assert KEY not in str(fresh) and "mK7pq2Lw9xTz4vB8nM1c" not in str(fresh) and counts.total() == 3


def test_names_however_they_are_joined() -> None:
    scrub = Scrubber(build_policy(b"k" * 32, exact_person("Annabel Quartermain"), ["Project Falcon"], []))
    joined = ("Annabel\nQuartermain", "annabel.quartermain", "quartermain_annabel", "QUARTERMAIN, ANNABEL")
    fresh = [scrub.text(f"by {name} it")[0] for name in joined]
    assert not any("artermain" in text.lower() or "annabel" in text.lower() for text in fresh)
    for text in ("Project\n  Falcon", "project-falcon", "Project\\nFalcon", "PROJECT_FALCON"):
        assert "falcon" not in scrub.text(f"by {text} it")[0].lower()
    one, two = (scrub.text(name)[0] for name in ("annabel.quartermain", "annabel_quartermain"))
    assert one.replace(".", "") == two.replace("_", "")


def test_names_with_letters_beyond_ascii_however_they_are_spelled() -> None:
    people = [*exact_person("Zoë Müller-Lüdenscheidt"), *exact_person("José García Márquez")]
    scrub = Scrubber(build_policy(b"k" * 32, [*people, *exact_user("jgarcia")], [], []))
    whole = "Zoë Müller-Lüdenscheidt"
    for name in (
        whole,
        unicodedata.normalize("NFD", whole),
        whole.upper(),
        whole.lower(),
        json.dumps(whole)[1:-1],
        "Zoe Mueller-Luedenscheidt",
        "Zoe Muller-Ludenscheidt",
        "Frau Lüdenscheidt",
        "Jose Garcia Marquez",
        "jgarcia_backup and db_jgarcia",
    ):
        fresh = scrub.text(f"by {name} it")[0].lower()
        assert not any(part in fresh for part in ("denscheidt", "marquez", "jgarcia")), name
        assert scrub.text(fresh)[0] == fresh
    forms = {scrub.text(unicodedata.normalize(form, whole))[0] for form in ("NFC", "NFD")}
    assert len(forms) == 1


SLASHED = "/ynZNVY8V7bD8P5hEpIKanr6XkZiNia3nn+3s9IR"
"""As one of 64 keys in base64 is."""
MARGINS: dict[str, Callable[[int], str]] = {
    "diff": lambda _: "+",
    "removed": lambda _: "-",
    "quotation": lambda _: "> ",
    "quoted diff": lambda _: "> +",
    "listing": lambda n: f"{n:>6}→",
    "tabs": lambda n: f"{n:>6}\t",
    "search": lambda n: f"{n}:",
    "around a search": lambda n: f"{n}-",
}


@pytest.mark.parametrize("value", [SLASHED, SLASHED[:24] + "==", "/" + SLASHED[1:] * 5])
@pytest.mark.parametrize(
    "form", ["AWS_SECRET_ACCESS_KEY={}", "export AWS_SESSION_TOKEN={}", "secret_key: {}", '"SecretKey": "{}"']
)
def test_a_value_that_begins_as_a_path_does_goes(form: str, value: str) -> None:
    for text in (form.format(value), json.dumps({"stdout": form.format(value) + "\n"})):
        fresh, counts = scrubber().text(text)
        assert value not in fresh and counts.total() == 1
        assert scrubber().text(fresh)[0] == fresh


@pytest.mark.parametrize("margin", MARGINS)
@pytest.mark.parametrize(
    "block", ["password: |\n  {}", "db:\n  password: >-\n    {}", "passwords:\n  - {}\n  - {}"]
)
def test_a_block_goes_whatever_stands_before_its_lines(block: str, margin: str) -> None:
    lines = (block.format(PASSWORD, "Qw7zPl9mXv2") + "\nuser: x").split("\n")
    text = "\n".join(MARGINS[margin](n) + line for n, line in enumerate(lines, 9))
    for told in (text, json.dumps(text), json.dumps(json.dumps({"out": text}))):
        fresh = scrubber().text(told)[0]
        assert PASSWORD not in fresh and "Qw7zPl9mXv2" not in fresh
        assert fresh.count(MARGINS[margin](10).strip()) >= told.count(MARGINS[margin](10).strip())
        assert scrubber().text(fresh)[0] == fresh


@pytest.mark.parametrize(
    ("form", "secret"),
    [
        ("curl -u admin:'{}' https://x.io", PASSWORD.replace("&", "!")),
        ('curl -u admin:"{}" https://x.io', PASSWORD.replace("&", "!")),
        ('client_secret: "{}"', "nO3RS.OOg3kGn7wQwOF_brWVO0z5VtqTns"),
        ("q=password%3A%20%7C%0A%20%20{}%0Auser%3A%20x", "zpa2cYxCZ1WM1"),
        ("FERNET_KEY={}", "TabGJHQenxu-2WO0YsxX_S9TQf9IApzeSS_M11SfRpt="),
        ("SSH_PRIVATE_KEY_B64={}", "a9Fq/Zr+T8vYw2Lm" * 12),
        ('tokenBase64: "{}"', "a9FqXZrpT8vYw2Lm"),
        ('requests.get(u, auth=("bob", "{}"))', "pw123xyz"),
        ("Elasticsearch(url, http_auth=('elastic','{}'))", PASSWORD),
        ('auth=HTTPBasicAuth("bob", "{}")', "pw123xyz"),
        ('aiohttp.BasicAuth("bob", password="{}")', "pw123xyz"),
        ("db.prod:6432:app:svc:{}", "Xy7kQ2mP9z"),
        ("*:*:*:app:{}", "Xy7kQ2mP9z"),
        ("db.prod:5432:app:svc:{}", "dkXWqTzpLmNa"),
        ("+db.prod:15432:app:svc:{}", "Xy7kQ2mP9z"),
        ('echo "localhost:5433:*:svc:{}" >> ~/.pgpass', "Xy7kQ2mP9z"),
    ],
)
def test_a_secret_in_its_place_goes_in_any_nesting(form: str, secret: str) -> None:
    text = form.format(secret)
    for told in (
        text,
        f"ran:\n{text}\nok",
        json.dumps({"o": f"a\n{text}\nb"}),
        json.dumps([json.dumps([text])]),
    ):
        fresh = scrubber().text(told)[0]
        assert secret not in fresh, told
        assert scrubber().text(fresh)[0] == fresh


@pytest.mark.parametrize(
    "text",
    [
        "PRIVATE_KEY=/etc/ssl/key.pem",
        "DB_PASSWORD=/run/secrets/db_password",
        "SSH_PRIVATE_KEY=/home/user/.ssh/id_rsa",
        "secret_key=/var/lib/overlay2/3f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a",
        "api_key=/v1/projects/MyProject12/secrets/DatabasePassword",
        "SECRET_KEY=/Users/user/Library/ApplicationSupport/MyApp2",
        'auth=("user", "password")',
        "auth=(user, password)",
        'auth=("client_id", "client_secret")',
        "src/foo.py:1234:def:bar:baz",
        "ERROR:1234:app:svc:took12ms4",
        "at 12:34:56:789:x1 of it",
        "curl -u user:'<your-password>' https://x.io",
        "+password: |\n+  {{ vault_password }}",
        "passwords: [required, min:8, max:255]",
        "password for user: see the vault",
        "password for db: incorrect",
        "cache_key_" + "deadbeef01234567" * 4,
        "id,name,token count\n1,alice,2045\n",
        "step,password changed\n1,yes\n",
        "| flag | meaning |\n|---|---|\n| --token | the token |",
        "secrets: [GITHUB_TOKEN, NPM_TOKEN]",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        b64("just a sentence of plain words in base64, nothing in it"),
        "👩\u200d💻 commits code \u200b here",
        "password: |\n  {{ vault_password }}\n",
        'args = ["--foo" + "bar", "it" + "em"]',
        "密码错误：请重试",
        urllib.parse.quote("plain words, and no secret"),
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert scrubber().text(text)[0] == text


@pytest.mark.parametrize(
    "text",
    ["70617373776f72643d\x1b[31m4b7a3952324c6d5133\x1b[0m", "%37%30617373776f72643d4b7a3952324c6d5133"],
)
def test_hexadecimal_text_with_marks_in_it_is_no_error(text: str) -> None:
    assert isinstance(scrubber().text(text)[0], str)
