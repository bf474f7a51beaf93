"""What bench/scrub.py plants: keys as their issuers document them, in the clothes of a session.

A plant is a value of one type, in a carrier (the line that it stands in), in up to two wrappers (what the
line is nested in). Nothing here is taken from the rules: the formats are written down anew from the issuers'
own pages, and no rule's code is imported. Everything is random from a seed, and nobody's.
"""

from __future__ import annotations

import base64
import html
import json
import random
import string
import urllib.parse
import zlib
from collections.abc import Callable
from dataclasses import dataclass

LOW, UP, NUM = string.ascii_lowercase, string.ascii_uppercase, string.digits
ALNUM, HEX, URL64, B64 = UP + LOW + NUM, NUM + "abcdef", UP + LOW + NUM + "-_", UP + LOW + NUM + "+/"
BASE32 = UP + "234567"

Rng = random.Random
Make = Callable[[Rng], str]


@dataclass(frozen=True)
class Plant:
    """``text`` is what stands in the session; ``value`` may not be readable in what comes out."""

    kind: str
    group: str
    """``secret``, ``personal``, ``name`` or ``free name``."""
    text: str
    value: str
    where: str
    """Carrier and wrappers, for the report."""


def some(rng: Rng, alphabet: str, size: int) -> str:
    """Random characters, with a digit where the alphabet has any; a letter or digit at both ends."""
    chars = [rng.choice(alphabet) for _ in range(size)]
    ends = [c for c in alphabet if c.isalnum()]
    chars[0], chars[-1] = rng.choice(ends), rng.choice(ends)
    if "7" in alphabet and not any(c.isdigit() for c in chars):
        chars[size // 2] = rng.choice(NUM)
    return "".join(chars)


def uuid4(rng: Rng) -> str:
    raw = some(rng, HEX, 32)
    return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-a{raw[17:20]}-{raw[20:]}"


def of(prefix: str, alphabet: str, size: int, suffix: str = "") -> Make:
    return lambda r: prefix + some(r, alphabet, size) + suffix


# --- secrets ----------------------------------------------------------------------------------------------


def github_classic(rng: Rng) -> str:
    body = some(rng, ALNUM, 30)
    number, check = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        check = (NUM + UP + LOW)[digit] + check
    return rng.choice(("ghp_", "gho_", "ghs_")) + body + check


def jwt(rng: Rng) -> str:
    head = {"alg": rng.choice(("HS256", "RS256")), "typ": "JWT"}
    body = {"sub": some(rng, NUM, 10), "iat": 1795000000 + rng.randrange(10**6), "scope": "read write"}
    parts = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in (head, body)]
    return ".".join([*parts, some(rng, URL64, rng.choice((43, 342)))])


ANNOUNCED: dict[str, Make] = {
    "aws access key": lambda r: r.choice(("AKIA", "ASIA")) + some(r, BASE32, 16),
    "github classic": github_classic,
    "github fine-grained": lambda r: f"github_pat_{some(r, ALNUM, 22)}_{some(r, ALNUM, 59)}",
    "gitlab personal": of("glpat-", URL64, 20),
    "gitlab routable": lambda r: f"glpat-{some(r, URL64, 27)}.01.{some(r, LOW + NUM, 9)}",
    "gitlab runner": of("glrt-", URL64, 20),
    "bitbucket app password": of("ATBB", ALNUM, 32),
    "atlassian api": lambda r: f"ATATT3xFfGF0{some(r, URL64, 171)}={some(r, UP + NUM, 8)}",
    "npm": of("npm_", ALNUM, 36),
    "pypi": of("pypi-AgEIcHlwaS5vcmc", URL64, 160),
    "rubygems": of("rubygems_", HEX, 48),
    "docker hub": of("dckr_pat_", URL64, 27),
    "slack bot": lambda r: f"xoxb-{some(r, NUM, 12)}-{some(r, NUM, 13)}-{some(r, ALNUM, 24)}",
    "slack user": lambda r: (
        f"xoxp-{some(r, NUM, 12)}-{some(r, NUM, 12)}-{some(r, NUM, 13)}-{some(r, HEX, 32)}"
    ),
    "slack app": lambda r: f"xapp-1-A{some(r, UP + NUM, 10)}-{some(r, NUM, 13)}-{some(r, HEX, 64)}",
    "slack config": lambda r: f"xoxe.xoxp-1-{some(r, ALNUM, 166)}",
    "slack webhook": lambda r: (
        "https://hooks.slack.com/services/"
        f"T{some(r, UP + NUM, 10)}/B{some(r, UP + NUM, 10)}/{some(r, ALNUM, 24)}"
    ),
    "discord webhook": lambda r: f"https://discord.com/api/webhooks/{some(r, NUM, 19)}/{some(r, URL64, 68)}",
    "discord bot": lambda r: f"M{some(r, ALNUM, 25)}.{some(r, URL64, 6)}.{some(r, URL64, 38)}",
    "telegram bot": lambda r: f"{r.randint(10**9, 9 * 10**9)}:AA{some(r, URL64, 33)}",
    "teams webhook": lambda r: (
        f"https://acme.webhook.office.com/webhookb2/{uuid4(r)}@{uuid4(r)}/IncomingWebhook/"
        f"{some(r, HEX, 32)}/{uuid4(r)}"
    ),
    "google chat webhook": lambda r: (
        f"https://chat.googleapis.com/v1/spaces/{some(r, ALNUM, 11)}/messages?key="
        f"AIzaSy{some(r, URL64, 33)}&token={some(r, URL64, 43)}"
    ),
    "stripe secret": of("sk_live_", ALNUM, 99),
    "stripe test": of("sk_test_", ALNUM, 24),
    "stripe restricted": of("rk_live_", ALNUM, 99),
    "stripe webhook": of("whsec_", ALNUM, 32),
    "square": of("sq0atp-", URL64, 22),
    "shopify": of("shpat_", HEX, 32),
    "paypal braintree": lambda r: f"access_token$production${some(r, LOW + NUM, 16)}${some(r, HEX, 32)}",
    "plaid": lambda r: f"access-production-{uuid4(r)}",
    "razorpay": of("rzp_live_", ALNUM, 14),
    "openai project": lambda r: f"sk-proj-{some(r, URL64, 74)}T3BlbkFJ{some(r, URL64, 74)}",
    "openai legacy": lambda r: f"sk-{some(r, ALNUM, 20)}T3BlbkFJ{some(r, ALNUM, 20)}",
    "anthropic": lambda r: f"sk-ant-api03-{some(r, URL64, 93)}AA",
    "anthropic oauth": lambda r: f"sk-ant-oat01-{some(r, URL64, 86)}AA",
    "openrouter": of("sk-or-v1-", HEX, 64),
    "huggingface": of("hf_", LOW + UP, 34),
    "groq": of("gsk_", ALNUM, 52),
    "xai": of("xai-", ALNUM, 80),
    "replicate": of("r8_", ALNUM, 37),
    "perplexity": of("pplx-", ALNUM, 48),
    "langsmith": lambda r: f"lsv2_pt_{some(r, HEX, 32)}_{some(r, HEX, 10)}",
    "pinecone": lambda r: f"pcsk_{some(r, ALNUM, 6)}_{some(r, ALNUM, 63)}",
    "google api": of("AIzaSy", URL64, 33),
    "google oauth secret": of("GOCSPX-", URL64, 28),
    "google access": of("ya29.a0", URL64, 160),
    "azure ad secret": lambda r: f"{some(r, ALNUM, 3)}8Q~{some(r, ALNUM + '-_.~', 34)}",
    "azure search key": lambda r: f"{some(r, ALNUM, 42)}AzSe{some(r, ALNUM, 6)}",
    "digitalocean": of("dop_v1_", HEX, 64),
    "alibaba": of("LTAI5t", ALNUM, 18),
    "cloudflare token": lambda r: f"cfut_{some(r, ALNUM, 40)}{some(r, HEX, 8)}",
    "vercel": of("vcp_", ALNUM, 56),
    "netlify": of("nfp_", ALNUM, 36),
    "heroku": of("HRKU-AA", URL64, 58),
    "fly": of("fo1_", URL64, 43),
    "render": of("rnd_", ALNUM, 28),
    "neon": of("napi_", ALNUM, 64),
    "supabase": of("sbp_", HEX, 40),
    "planetscale": of("pscale_tkn_", ALNUM, 43),
    "aiven": of("AVNS_", ALNUM, 19),
    "mongodb atlas": of("mdb_sa_sk_", URL64, 40),
    "databricks": of("dapi", HEX, 32),
    "vault": of("hvs.", URL64, 95),
    "terraform cloud": lambda r: f"{some(r, ALNUM, 14)}.atlasv1.{some(r, ALNUM, 67)}",
    "pulumi": of("pul-", HEX, 40),
    "doppler": of("dp.pt.", ALNUM, 43),
    "1password": lambda r: "ops_eyJ" + some(r, ALNUM, 300),
    "age": lambda r: (
        "AGE-SECRET-KEY-1" + "".join(r.choice("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L") for _ in range(58))
    ),
    "tailscale": lambda r: f"tskey-auth-k{some(r, ALNUM, 11)}CNTRL-{some(r, ALNUM, 32)}",
    "grafana": lambda r: f"glsa_{some(r, ALNUM, 32)}_{some(r, HEX, 8)}",
    "new relic": of("NRAK-", UP + NUM, 27),
    "sentry": of("sntryu_", HEX, 64),
    "dynatrace": lambda r: f"dt0c01.{some(r, BASE32, 24)}.{some(r, BASE32, 64)}",
    "honeycomb": of("hcaik_", LOW + NUM, 58),
    "linear": of("lin_api_", ALNUM, 40),
    "notion": of("ntn_", ALNUM, 46),
    "figma": of("figd_", URL64, 40),
    "airtable": lambda r: f"pat{some(r, ALNUM, 14)}.{some(r, HEX, 64)}",
    "postman": lambda r: f"PMAK-{some(r, HEX, 24)}-{some(r, HEX, 34)}",
    "sendgrid": lambda r: f"SG.{some(r, URL64, 22)}.{some(r, URL64, 43)}",
    "mailgun": of("key-", HEX, 32),
    "mailchimp": lambda r: f"{some(r, HEX, 32)}-us{r.randint(1, 21)}",
    "brevo": lambda r: f"xkeysib-{some(r, HEX, 64)}-{some(r, ALNUM, 16)}",
    "resend": lambda r: f"re_{some(r, ALNUM, 8)}_{some(r, ALNUM, 24)}",
    "twilio": of("SK", HEX, 32),
    "docker swarm": lambda r: f"SWMTKN-1-{some(r, LOW + NUM, 50)}-{some(r, LOW + NUM, 25)}",
    "jwt": jwt,
    "bcrypt": lambda r: f"$2b$12${some(r, ALNUM + './', 53)}",
}
"""Keys that carry their issuer's mark: to be found anywhere."""


def awkward(rng: Rng) -> str:
    """A password as a manager makes it; no quotes or backslashes, which would need escapes."""
    return (
        some(rng, ALNUM, 5)
        + "".join(rng.choice(ALNUM + "!@#%^*_+=?~-") for _ in range(9))
        + some(rng, ALNUM, 2)
    )


LABELLED: dict[str, tuple[str, Make]] = {
    "password": ("db password", awkward),
    "password, plain": ("admin password", of("", ALNUM, 12)),
    "passphrase": ("key passphrase", of("", ALNUM, 20)),
    "aws secret key": ("aws secret access key", of("", B64, 40)),
    "aws session token": ("aws session token", lambda r: "IQoJb3JpZ2luX2Vj" + some(r, B64, 300) + "=="),
    "datadog": ("dd api key", of("", HEX, 32)),
    "cloudflare global": ("cloudflare api key", of("", HEX, 37)),
    "algolia": ("algolia admin api key", of("", HEX, 32)),
    "heroku uuid": ("heroku api key", uuid4),
    "snyk": ("snyk token", uuid4),
    "okta": ("okta api token", lambda r: "00" + some(r, URL64, 40)),
    "twilio auth": ("twilio auth token", of("", HEX, 32)),
    "mistral": ("mistral api key", of("", ALNUM, 32)),
    "cohere": ("cohere api key", of("", ALNUM, 40)),
    "deepgram": ("deepgram api key", of("", HEX, 40)),
    "elevenlabs": ("elevenlabs api key", of("sk_", HEX, 48)),
    "azure storage": ("account key", lambda r: some(r, B64, 86) + "=="),
    "fastly": ("fastly api token", of("", URL64, 32)),
    "circleci legacy": ("circle token", of("", HEX, 40)),
    "gitea": ("gitea token", of("", HEX, 40)),
    "client secret": ("oauth client secret", of("", ALNUM, 40)),
    "refresh token": ("refresh token", of("", URL64, 60)),
    "session secret": ("session secret", of("", HEX, 64)),
    "django": ("secret key", lambda r: "".join(r.choice(LOW + NUM + "!@#%^&*(-_=+)") for _ in range(50))),
    "signing key": ("jwt signing key", of("", B64, 44)),
    "encryption key": ("encryption key", of("", HEX, 64)),
    "webhook signing": ("slack signing secret", of("", HEX, 32)),
    "ethereum key": ("private key", lambda r: "0x" + some(r, HEX, 64)),
    "license key": ("license key", lambda r: "-".join(some(r, UP + NUM, 5) for _ in range(5))),
    "redis password": ("redis password", of("", LOW + NUM, 24)),
}
"""Secrets that only the name beside them gives away: (words of the name, maker)."""


def pem_block(rng: Rng) -> tuple[str, str]:
    label = rng.choice(("RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"))
    lines = [some(rng, B64, 64) for _ in range(rng.randint(4, 24))] + [some(rng, ALNUM, 30) + "=="]
    return f"-----BEGIN {label}-----\n" + "\n".join(lines) + f"\n-----END {label}-----", rng.choice(lines)


def _basic(rng: Rng) -> str:
    return base64.b64encode(f"{some(rng, LOW, 6)}:{some(rng, ALNUM, 14)}".encode()).decode()


SHAPED: dict[str, Callable[[Rng], tuple[str, str]]] = {
    "private key": pem_block,
    "basic auth": lambda r: (lambda v: (f"Authorization: Basic {v}", v))(_basic(r)),
    "bearer": lambda r: (lambda v: (f'curl -H "Authorization: Bearer {v}" https://api.acme.dev/v2', v))(
        some(r, URL64, 40)
    ),
    "cookie": lambda r: (lambda v: (f"Cookie: theme=dark; sessionid={v}; lang=en", v))(
        some(r, LOW + NUM, 32)
    ),
    "set-cookie": lambda r: (lambda v: (f"Set-Cookie: __Host-sid={v}; Path=/; Secure", v))(
        some(r, URL64, 43)
    ),
    "postgres url": lambda r: (lambda v: (f"postgresql://svc:{v}@db.acme.dev:5432/app", v))(
        some(r, ALNUM, 16)
    ),
    "mongodb url": lambda r: (lambda v: (f"mongodb+srv://svc:{v}@c0.ab1cd.mongodb.net/x", v))(
        some(r, ALNUM, 16)
    ),
    "amqp url": lambda r: (lambda v: (f"amqps://svc:{v}@mq.acme.dev:5671/%2f", v))(some(r, ALNUM, 16)),
    "redis url": lambda r: (lambda v: (f"redis://:{v}@cache.acme.dev:6379/0", v))(some(r, ALNUM, 20)),
    "git remote": lambda r: (
        lambda v: (f"origin\thttps://x-access-token:{v}@git.acme.dev/a/b.git (fetch)", v)
    )(some(r, ALNUM, 40)),
    "npmrc": lambda r: (lambda v: (f"//npm.acme.dev/:_authToken={v}", v))(some(r, ALNUM, 36)),
    "pypirc": lambda r: (lambda v: (f"[acme]\nusername = ci\npassword = {v}", v))(some(r, ALNUM, 24)),
    "netrc": lambda r: (lambda v: (f"machine git.acme.dev login ci password {v}", v))(some(r, ALNUM, 24)),
    "docker config": lambda r: (lambda v: (json.dumps({"auths": {"r.acme.dev": {"auth": v}}}), v))(_basic(r)),
    "kubernetes secret": lambda r: (
        lambda v: (f"apiVersion: v1\nkind: Secret\ndata:\n  db-password: {v}\ntype: Opaque", v)
    )(base64.b64encode(some(r, ALNUM, 18).encode()).decode()),
    "azure connection": lambda r: (
        lambda v: (
            f"DefaultEndpointsProtocol=https;AccountName=acme;AccountKey={v};EndpointSuffix=core.windows.net",
            v,
        )
    )(some(r, B64, 86) + "=="),
    "service bus": lambda r: (
        lambda v: (f"Endpoint=sb://a.servicebus.windows.net/;SharedAccessKeyName=R;SharedAccessKey={v}", v)
    )(some(r, B64, 43) + "="),
    "sas": lambda r: (lambda v: (f"https://acme.blob.core.windows.net/c/x?sv=2023-11-03&sp=r&sig={v}%3D", v))(
        some(r, ALNUM, 42)
    ),
    "presigned": lambda r: (
        lambda v: (f"https://b.s3.amazonaws.com/k?X-Amz-Expires=600&X-Amz-Signature={v}", v)
    )(some(r, HEX, 64)),
    "curl user": lambda r: (lambda v: (f"curl -u deploy:{v} https://acme.dev/x", v))(some(r, ALNUM, 14)),
    "mysql -p": lambda r: (lambda v: (f"mysql -h db -u root -p{v} app", v))(some(r, ALNUM, 14)),
    "otp secret": lambda r: (lambda v: (f"otpauth://totp/Acme:ops?secret={v}&issuer=Acme", v))(
        some(r, BASE32, 32)
    ),
    "sentry dsn": lambda r: (lambda v: (f"https://{v}@o45.ingest.sentry.io/123", v))(some(r, HEX, 32)),
    "wireguard": lambda r: (lambda v: (f"[Interface]\nPrivateKey = {v}\nAddress = 10.9.0.2/32", v))(
        some(r, B64, 42) + "0="
    ),
    "nuget config": lambda r: (lambda v: (f'<add key="ClearTextPassword" value="{v}" />', v))(
        some(r, ALNUM, 20)
    ),
    "shadow": lambda r: (lambda v: (f"ops:$6$rounds=5000${some(r, ALNUM, 12)}${v}:19700:0:99999:7:::", v))(
        some(r, ALNUM + "./", 86)
    ),
    "jwk": lambda r: (
        lambda v: (
            json.dumps(
                {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "d": v}
            ),
            v,
        )
    )(some(r, URL64, 43)),
}
"""Secrets that the structure around them gives away: a maker of (text, secret)."""


def _names(words: str) -> dict[str, str]:
    parts = words.split()
    return {
        "env": "_".join(parts).upper(),
        "snake": "_".join(parts),
        "kebab": "-".join(parts),
        "camel": parts[0] + "".join(p.title() for p in parts[1:]),
    }


LABELS: dict[str, str] = {
    "dotenv": "PORT=8080\n{env}={v}\nDEBUG=1",
    "dotenv, quoted": '{env}="{v}"',
    "export": "export {env}='{v}' && make deploy",
    "yaml": "service:\n  {snake}: {v}\n  replicas: 2",
    "yaml, quoted": '  {kebab}: "{v}"',
    "json": '{{"{snake}": "{v}", "region": "eu-1"}}',
    "json, camel": '{{"{camel}":"{v}"}}',
    "toml": '[auth]\n{snake} = "{v}"',
    "python": 'client = Client({snake}="{v}", retries=3)',
    "javascript": "const {camel} = '{v}';",
    "terraform": 'variable "{snake}" {{\n  default = "{v}"\n}}',
    "k8s env": "- name: {env}\n  value: {v}",
    "docker -e": "docker run -d -e {env}={v} acme/app:1.2",
    "flag": "deployctl apply --{kebab} {v} --wait",
    "flag with =": "deployctl apply --{kebab}={v}",
    "properties": "acme.{kebab}={v}",
    "name and value": '{{"name": "{env}", "value": "{v}"}}',
    "printenv": "HOME=/root\n{env}={v}\nSHLVL=1",
    "grep": ".env.production:14:{env}={v}",
}
BARE: dict[str, str] = {
    "alone": "{v}",
    "prose": "I pasted {v} into the form and it was accepted.",
    "markdown": "use `{v}` for now",
    "table": "| prod | {v} | active |",
    "log": '2026-11-23T08:06:14Z ERROR upstream said 401 for "{v}"',
    "query": "GET /v1/items?limit=10&k={v}&page=2 HTTP/1.1",
    "comment": "    # old one: {v}",
    "csv": "alice,prod,{v},2026-11-23",
    "assignment": 'x = "{v}"',
    "list": '["prod", "{v}"]',
    "brackets": "(was {v})",
    "colon": "value: {v}",
}


def _lines(text: str, form: Callable[[int, str], str]) -> str:
    return "\n".join(form(number, line) for number, line in enumerate(text.split("\n"), 1))


WRAPPERS: dict[str, Callable[[str], str]] = {
    "json string": lambda s: json.dumps({"stdout": s, "exit": 0}),
    "json in json": lambda s: json.dumps({"body": json.dumps({"log": s})}),
    "json, spaced": lambda s: json.dumps({"result": [{"text": s}]}, indent=2),
    "shell echo": lambda s: "echo " + json.dumps(s),
    "diff": lambda s: "@@ -3,0 +4 @@\n" + _lines(s, lambda _, x: "+" + x),
    "numbered": lambda s: _lines(s, lambda n, x: f"{n:>6}\t{x}"),
    "ansi": lambda s: f"\x1b[32m{s}\x1b[0m",
    "yaml block": lambda s: "data: |\n" + _lines(s, lambda _, x: "    " + x),
    "log prefix": lambda s: _lines(s, lambda n, x: f"web-1  | 08:06:{n % 60:02d} {x}"),
    "python repr": lambda s: repr({"output": s}),
    "code fence": lambda s: f"```\n{s}\n```",
    "quoted mail": lambda s: _lines(s, lambda _, x: "> " + x),
}
ENCODERS: dict[str, Callable[[str], str]] = {
    "percent": lambda s: "next=" + urllib.parse.quote(s, safe=""),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "html": lambda s: html.escape(s),
    "unicode escapes": lambda s: json.dumps(s)[1:-1].replace('\\"', "\\u0022").replace("&", "\\u0026"),
}


def plants(rng: Rng) -> list[Plant]:
    """One of every type in some carrier and wrapper, each drawn anew."""
    out: list[Plant] = []
    for kind, make in ANNOUNCED.items():
        value = make(rng)
        carrier, form = rng.choice(list(BARE.items()))
        out.append(_wrap(rng, kind, "secret", form.format(v=value), value, carrier))
    for kind, (words, make) in LABELLED.items():
        value = make(rng)
        carrier, form = rng.choice(list(LABELS.items()))
        if carrier in ("dotenv", "flag", "docker -e", "printenv", "grep", "properties", "k8s env", "yaml"):
            value = value.replace("#", "x").replace("&", "x").replace("(", "x").replace(")", "x")
        text = form.format(v=value, **_names(words))
        out.append(_wrap(rng, kind, "secret", text, value, carrier))
    for kind, shape in SHAPED.items():
        text, value = shape(rng)
        out.append(_wrap(rng, kind, "secret", text, value, "own"))
    return out


def _wrap(rng: Rng, kind: str, group: str, text: str, value: str, carrier: str) -> Plant:
    """The text in none to two wrappers, once in a while in an encoding."""
    where = [carrier]
    if rng.random() < 0.15:
        name, wrap = rng.choice(list(ENCODERS.items()))
        text, where = wrap(text), [*where, name]
    for _ in range(rng.choice((0, 1, 1, 2))):
        name, wrap = rng.choice(list(WRAPPERS.items()))
        text, where = wrap(text), [*where, name]
    return Plant(kind, group, text, value, " < ".join(where))


def secret_kinds() -> list[str]:
    return [*ANNOUNCED, *LABELLED, *SHAPED]
