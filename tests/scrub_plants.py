"""Planted secrets and personal data in the shapes of agent transcripts, and what must stay; all generated.

Shared by the tests and ``bench/scrub.py``. Nothing here is anybody's: keys are random strings in providers'
formats, people are made up from syllables.
"""

from __future__ import annotations

import base64
import json
import random
import string
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

LOWER, UPPER, DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
ALNUM, HEX, B64URL, B32 = (
    LOWER + UPPER + DIGITS,
    DIGITS + "abcdef",
    LOWER + UPPER + DIGITS + "-_",
    UPPER + "234567",
)


@dataclass(frozen=True)
class Plant:
    """``text`` holds ``secret``; afterwards no form of ``secret`` may be left."""

    kind: str
    text: str
    secret: str


def draw(rng: random.Random, alphabet: str, size: int) -> str:
    """Random characters; the first and last are letters or digits, one is a digit where there are any."""
    body = [rng.choice(alphabet) for _ in range(size)]
    plain = [c for c in alphabet if c.isalnum()]
    body[0], body[-1] = rng.choice(plain), rng.choice(plain)
    if set(DIGITS) <= set(alphabet) and not set(body) & set(DIGITS):
        body[size // 2] = rng.choice(DIGITS)
    return "".join(body)


def uuid(rng: random.Random) -> str:
    return "-".join(draw(rng, HEX, n) for n in (8, 4, 4, 4, 12))


Make = Callable[[random.Random], str]


def _t(prefix: str, alphabet: str, size: int, suffix: str = "") -> Make:
    return lambda rng: prefix + draw(rng, alphabet, size) + suffix


def jwt(rng: random.Random) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": draw(rng, DIGITS, 10), "name": draw(rng, LOWER, 8)})
    head = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    return ".".join([*head, draw(rng, B64URL, 43)])


TOKENS: dict[str, Make] = {
    "aws_access_key": _t("AKIA", B32, 16),
    "aws_session_key": _t("ASIA", B32, 16),
    "github_pat": _t("ghp_", ALNUM, 36),
    "github_fine": lambda r: f"github_pat_{draw(r, ALNUM, 22)}_{draw(r, ALNUM, 59)}",
    "github_app": _t("ghs_", ALNUM, 36),
    "gitlab_pat": _t("glpat-", B64URL, 20),
    "slack_bot": lambda r: f"xoxb-{draw(r, '123456789', 12)}-{draw(r, '123456789', 13)}-{draw(r, ALNUM, 24)}",
    "slack_user": lambda r: f"xoxp-{'-'.join(draw(r, '123456789', 12) for _ in range(3))}-{draw(r, HEX, 32)}",
    "slack_app": lambda r: f"xapp-1-A{draw(r, UPPER + DIGITS, 10)}-{draw(r, DIGITS, 13)}-{draw(r, HEX, 64)}",
    "slack_webhook": lambda r: (
        f"https://hooks.slack.com/services/T{draw(r, UPPER, 8)}/B{draw(r, UPPER, 8)}/{draw(r, ALNUM, 24)}"
    ),
    "stripe_live": _t("sk_live_", ALNUM, 24),
    "stripe_restricted": _t("rk_live_", ALNUM, 99),
    "openai_legacy": lambda r: f"sk-{draw(r, ALNUM, 20)}T3BlbkFJ{draw(r, ALNUM, 20)}",
    "openai_project": lambda r: f"sk-proj-{draw(r, B64URL, 74)}T3BlbkFJ{draw(r, B64URL, 74)}",
    "anthropic": lambda r: f"sk-ant-api03-{draw(r, B64URL, 93)}AA",
    "openrouter": _t("sk-or-v1-", HEX, 64),
    "google_api": _t("AIza", B64URL, 35),
    "google_oauth": _t("GOCSPX-", B64URL, 28),
    "google_access": _t("ya29.", B64URL, 120),
    "npm": _t("npm_", ALNUM, 36),
    "pypi": _t("pypi-AgEIcHlwaS5vcmc", B64URL, 150),
    "huggingface": _t("hf_", LOWER + UPPER, 34),
    "twilio": _t("SK", HEX, 32),
    "sendgrid": lambda r: f"SG.{draw(r, B64URL, 22)}.{draw(r, B64URL, 43)}",
    "digitalocean": _t("dop_v1_", HEX, 64),
    "azure_ad": lambda r: f"{draw(r, ALNUM, 3)}8Q~{draw(r, ALNUM + '~_.-', 34)}",
    "databricks": _t("dapi", HEX, 32),
    "shopify": _t("shpat_", HEX, 32),
    "square": _t("sq0atp-", B64URL, 22),
    "linear": _t("lin_api_", ALNUM, 40),
    "notion": _t("ntn_", ALNUM, 46),
    "postman": lambda r: f"PMAK-{draw(r, HEX, 24)}-{draw(r, HEX, 34)}",
    "rubygems": _t("rubygems_", HEX, 48),
    "docker": _t("dckr_pat_", B64URL, 27),
    "vault": _t("hvs.", B64URL, 90),
    "terraform": lambda r: f"{draw(r, ALNUM, 14)}.atlasv1.{draw(r, B64URL, 67)}",
    "doppler": _t("dp.pt.", ALNUM, 43),
    "grafana": lambda r: f"glsa_{draw(r, ALNUM, 32)}_{draw(r, HEX, 8)}",
    "newrelic": _t("NRAK-", UPPER + DIGITS, 27),
    "sentry": _t("sntryu_", HEX, 64),
    "supabase": _t("sbp_", HEX, 40),
    "planetscale": _t("pscale_tkn_", B64URL, 43),
    "mailgun": _t("key-", HEX, 32),
    "mailchimp": lambda r: f"{draw(r, HEX, 32)}-us{r.randint(1, 21)}",
    "telegram": lambda r: f"{draw(r, '123456789', 10)}:AA{draw(r, B64URL, 33)}",
    "discord_bot": lambda r: f"M{draw(r, ALNUM, 23)}.{draw(r, ALNUM, 6)}.{draw(r, B64URL, 38)}",
    "discord_webhook": lambda r: (
        f"https://discord.com/api/webhooks/{draw(r, DIGITS, 18)}/{draw(r, B64URL, 68)}"
    ),
    "groq": _t("gsk_", ALNUM, 52),
    "xai": _t("xai-", ALNUM, 80),
    "perplexity": _t("pplx-", ALNUM, 48),
    "replicate": _t("r8_", ALNUM, 37),
    "atlassian": _t("ATATT3xFfGF0", B64URL, 176, "=8C5E0F7A"),
    "airtable": lambda r: f"pat{draw(r, ALNUM, 14)}.{draw(r, HEX, 64)}",
    "figma": _t("figd_", B64URL, 40),
    "age": _t("AGE-SECRET-KEY-1", "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58),
    "tailscale": lambda r: f"tskey-auth-{draw(r, ALNUM, 17)}-{draw(r, ALNUM, 32)}",
    "jwt": jwt,
}
"""Keys that their own format gives away, in any context."""


def _password(rng: random.Random) -> str:
    return draw(rng, ALNUM, 5) + rng.choice("!@#%^*_+") + draw(rng, ALNUM, 6)


def pem(rng: random.Random) -> tuple[str, str]:
    lines = [draw(rng, ALNUM + "+/", 64) for _ in range(6)] + [draw(rng, ALNUM, 22) + "=="]
    label = rng.choice(["RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"])
    return f"-----BEGIN {label}-----\n" + "\n".join(lines) + f"\n-----END {label}-----", lines[3]


def structured(rng: random.Random) -> list[Plant]:
    """Secrets told by the structure around them, one of each."""
    pw, tok, hexed = _password(rng), draw(rng, ALNUM, 32), draw(rng, HEX, 40)
    plain = draw(rng, ALNUM, 14)
    user = draw(rng, LOWER, 6)
    basic = base64.b64encode(f"{user}:{plain}".encode()).decode()
    b64pw = base64.b64encode(pw.encode()).decode()
    block, line = pem(rng)
    aws = draw(rng, ALNUM + "+/", 40)
    storage = draw(rng, ALNUM + "+/", 86) + "=="
    quoted = urllib.parse.quote(pw, safe="")
    seed = draw(rng, B32, 32)
    return [
        Plant("env_password", f"DB_PASSWORD={pw}", pw),
        Plant("env_export", f'export SECRET_KEY="{tok}"', tok),
        Plant("env_token", f"GITEA_TOKEN={hexed}", hexed),
        Plant("yaml_password", f"database:\n  user: app\n  password: {pw}\n  port: 5432", pw),
        Plant("yaml_quoted", f"  client_secret: '{tok}'", tok),
        Plant("json_key", json.dumps({"api_key": tok, "n": 1}), tok),
        Plant("json_camel", json.dumps({"clientSecret": tok}, indent=2), tok),
        Plant("json_password", json.dumps({"user": "x", "password": plain}), plain),
        Plant("toml", f'auth_token = "{tok}"', tok),
        Plant("ini", f"[client]\nuser = root\npassword = {plain}", plain),
        Plant("python_assign", f'API_SECRET = "{tok}"', tok),
        Plant("python_kwarg", f'connect(host="db", password="{plain}")', plain),
        Plant("js_assign", f"const accessToken = '{tok}';", tok),
        Plant("go_assign", f'token := "{tok}"', tok),
        Plant("flag_space", f"deploy --token {tok} --region eu", tok),
        Plant("flag_equals", f"mycli login --password={plain}", plain),
        Plant("header_bearer", f'curl -H "Authorization: Bearer {tok}" https://api.acme.io/v1', tok),
        Plant("header_basic", f"Authorization: Basic {basic}", basic),
        Plant("header_token", f"Authorization: token {hexed}", hexed),
        Plant("header_api_key", f"-H 'X-Api-Key: {tok}'", tok),
        Plant("cookie", f"Cookie: theme=dark; session={tok}; lang=en", tok),
        Plant("url_credentials", f"postgresql://{user}:{plain}@db.acme.io:5432/app", plain),
        Plant("url_symbols", f"redis://:{quoted}@cache:6379/0", quoted),
        Plant("url_query", f"https://api.acme.io/v1?user=7&access_token={tok}&x=1", tok),
        Plant("url_encoded", f"redirect=https%3A%2F%2F{user}%3A{plain}%40acme.io%2F", plain),
        Plant("odbc", f"Server=tcp:db,1433;User Id=app;Password={plain};Encrypt=true", plain),
        Plant(
            "azure_storage", f"AccountName=acme;AccountKey={storage};EndpointSuffix=core.windows.net", storage
        ),
        Plant("azure_sas", f"https://acme.blob.core.windows.net/c?sv=2022&sig={quoted}{tok}%3D", tok),
        Plant("aws_secret", f"aws_secret_access_key = {aws}", aws),
        Plant("aws_json", json.dumps({"SecretAccessKey": aws, "Expiration": "2026-11-23T08:06:14Z"}), aws),
        Plant("curl_user", f"curl -u {user}:{plain} https://acme.io", plain),
        Plant("mysql_p", f"mysql -h db -u root -p{plain} app", plain),
        Plant("sshpass", f"sshpass -p '{plain}' ssh x@h", plain),
        Plant("pgpassword", f"PGPASSWORD={plain} psql -h db", plain),
        Plant("netrc", f"machine api.acme.io login {user} password {plain}", plain),
        Plant("npmrc", f"//registry.acme.io/:_authToken={uuid(rng)}", ""),
        Plant("docker_auth", json.dumps({"auths": {"r.acme.io": {"auth": basic}}}), basic),
        Plant("base64_pair", f"decoded from {basic} it was", basic),
        Plant("k8s_secret", f"kind: Secret\ndata:\n  password: {b64pw}", b64pw),
        Plant("pem", block, line),
        Plant("pem_escaped", json.dumps({"private_key": block}), line),
        Plant("pem_numbered", "\n".join(f"{i:>6}→{x}" for i, x in enumerate(block.split("\n"), 1)), line),
        Plant("pem_diff", "\n".join("+" + x for x in block.split("\n")), line),
        Plant("pem_cut", "\n".join(block.split("\n")[:5]), line),
        Plant("prose", f"the password is {pw}", pw),
        Plant("markdown", f"**Password:** `{plain}`", plain),
        Plant("name_value", json.dumps({"name": "API_TOKEN", "value": tok}), tok),
        Plant("k8s_env", f"- name: DB_PASSWORD\n  value: {plain}", plain),
        Plant("xml", f"<password>{plain}</password>", plain),
        Plant("sql", f"CREATE USER app WITH PASSWORD '{plain}';", plain),
        Plant("otpauth", f"otpauth://totp/Acme:{user}?secret={seed}&issuer=Acme", seed),
        Plant("pip_index", f"pip install --index-url https://{user}:{plain}@pypi.acme.io/simple x", plain),
        Plant("vendor", f"ALGOLIA_ADMIN={draw(rng, HEX, 32)}", ""),
        Plant("datadog", f'DD_API_KEY: "{draw(rng, HEX, 32)}"', ""),
        Plant("bcrypt", f"$2b$12${draw(rng, ALNUM + './', 53)}", ""),
        Plant("env_os", f'os.environ["STRIPE_SECRET"] = "{tok}"', tok),
        Plant("header_dict", json.dumps({"headers": {"x-auth-token": tok}}), tok),
    ]


def secret_of(plant: Plant) -> str:
    """What must be gone: the secret, or the last word of the text."""
    if plant.secret:
        return plant.secret
    return plant.text.replace('"', " ").replace("=", " ").replace("$", " ").split()[-1]


def personal(rng: random.Random) -> list[Plant]:
    """Personal data, one of each type; names and users are those of :data:`PEOPLE`."""
    first, last = rng.choice(("Mira", "Jonas", "Teodora", "Kofi")), draw(rng, LOWER, 7).capitalize()
    mail = f"{first.lower()}.{last.lower()}@{draw(rng, LOWER, 6)}.{rng.choice(('com', 'io', 'de', 'co.uk'))}"
    area, exchange, line = rng.randint(201, 889), rng.randint(201, 998), rng.randint(1000, 9999)
    area = area if str(area)[1] != "9" else area - 10
    body = "4" + draw(rng, DIGITS, 14)
    card = body + next(d for d in DIGITS if _luhn(body + d))
    person = rng.choice(PEOPLE)
    octets = ".".join(str(rng.randint(11, 223)) for _ in range(4))
    octets = octets if not octets.startswith(("127.", "169.")) else "11" + octets[3:]
    v6 = ":".join(f"{rng.randint(0x1000, 0xFFFF):x}" for _ in range(7))
    mac = ":".join(f"{rng.randint(0, 255):02x}" for _ in range(6))
    ssn = f"{rng.randint(100, 665):03d}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}"
    bban = "WEST" + draw(rng, DIGITS, 14)
    iban = "GB" + f"{98 - int(''.join(str(int(c, 36)) for c in bban + 'GB00')) % 97:02d}" + bban
    home = draw(rng, LOWER, 7)
    street = f"{rng.randint(10, 999)} {last} {rng.choice(('Street', 'Avenue', 'Road', 'Lane'))}"
    born = f"19{rng.randint(50, 99)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    passport = draw(rng, UPPER, 2) + draw(rng, DIGITS, 7)
    return [
        Plant("email", f"write to {mail} today", mail),
        Plant("email_encoded", f"?to={mail.replace('@', '%40')}&x=1", mail.replace("@", "%40")),
        Plant("phone_us", f"call ({area}) {exchange}-{line}", f"{exchange}-{line}"),
        Plant("phone_dashes", f"tel {area}-{exchange}-{line}", f"{area}-{exchange}-{line}"),
        Plant("phone_intl", f"mobile +49 151 {rng.randint(10000000, 99999999)}", ""),
        Plant("phone_e164", f'"phone": "+1{area}{exchange}{line}"', f"{area}{exchange}{line}"),
        Plant("card", f"card {card}", card),
        Plant(
            "card_spaced",
            "card " + " ".join(card[i : i + 4] for i in range(0, 16, 4)),
            card[4:8] + " " + card[8:12],
        ),
        Plant("ssn", f"SSN {ssn}", ssn),
        Plant("iban", f"pay to {iban} now", iban),
        Plant("ipv4", f"Accepted publickey from {octets} port 52144", octets),
        Plant("ipv6", f"from 2a02:{v6} up", v6),
        Plant("mac", f"link/ether 3c{mac[2:]} brd ff:ff:ff:ff:ff:ff", mac[2:]),
        Plant("home_path", f"cd /home/{home}/src && ls", f"/home/{home}/"),
        Plant("home_mac", f"/Users/{home}/Library", f"/Users/{home}/"),
        Plant("home_windows", f"C:\\Users\\{home}\\Desktop", f"Users\\{home}\\"),
        Plant("address", f"ship to {street}, Springfield, IL 62704", street),
        Plant("birth_date", f"date of birth: {born}", born),
        Plant("passport", f"passport number: {passport}", passport),
        Plant("name", f"ask {person} about it", person),
        Plant("name_lower", f"assigned to {person.lower()}", person.lower()),
        Plant("commit_author", f"Author: {first} {last} <{mail}>", f"{first} {last}"),
    ]


def _luhn(digits: str) -> bool:
    total = sum(int(d) if i % 2 == 0 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(reversed(digits)))
    return total % 10 == 0


FORMS: tuple[str, ...] = (
    "my api key is {tok}",
    "here is the token: {tok}",
    '["Authorization", "Bearer {tok}"]',
    '{{"Authorization": "Bearer {tok}"}}',
    'password = "{pw}"',
    "  - DB_PASSWORD={pw}",
    "ENV SECRET_TOKEN {tok}",
    "stringData:\n  token: {tok}",
    "spring.datasource.password={pw}",
    "define('DB_PASSWORD', '{pw}');",
    "ENV['API_KEY'] = '{tok}'",
    '$env:API_KEY = "{tok}"',
    "set API_KEY={tok}",
    "set -x API_KEY {tok}",
    "API_KEY := {tok}",
    '.password("{pw}")',
    'let token = "{tok}";',
    'let secret: &str = "{tok}";',
    "username=a&password={pw}&grant_type=x",
    "X-Vault-Token: {tok}",
    "curl --header 'PRIVATE-TOKEN: {tok}' x",
    "Api-Token {tok}",
    "https://x.io/?apikey={tok}",
    "https://x.io/?key={tok}",
    "wss://x.io/s?token={tok}",
    "client_id=abc&client_secret={tok}&grant_type=client_credentials",
    "token                {tok}",
    "password             {pw}",
    "secret_id            {uuid}",
    "Key            Value\n---            -----\ntoken          {tok}",
    '{{"Env": ["PATH=/bin", "DB_PASSWORD={pw}"]}}',
    "Password: {pw}",
    "Enter password: {pw}",
    'echo "{pw}" | sudo -S ls',
    "sudo -S <<< {pw}",
    "zip -P {pw} a.zip b",
    "7z a -p{pw} a.7z",
    "smbclient -U user%{pw} //h/s",
    "ldapsearch -x -D cn=admin -w {pw} -b dc=x",
    "mongo -u admin -p {pw} --host h",
    'psql "host=db user=x password={pw} dbname=y"',
    "git remote set-url origin https://user:{tok}@github.com/a/b.git",
    "git clone https://{tok}@github.com/a/b.git",
    "git clone https://oauth2:{tok}@gitlab.com/a/b.git",
    "http POST x.io password={pw}",
    "jq -n --arg token {tok}",
    "client-key-data: {b64pem}",
    '"accessToken": "{tok}"',
    '"access_token":"{tok}","token_type":"Bearer"',
    "refresh_token={tok}",
    "SECRET={tok}",
    'PASSWORD="{pw}"',
    "export TOKEN='{tok}'",
    "DJANGO_SECRET_KEY='{tok}'",
    "secret_key_base: {hex}",
    "JWT_SECRET={tok}",
    "ENCRYPTION_KEY={b64}",
    "webhook_secret: {tok}",
    "machine github.com\n  login alice\n  password {tok}",
    "db.internal:5432:app:svc:{pw}",
    '<add key="ApiKey" value="{tok}" />',
    '<string name="api_key">{tok}</string>',
    "<apiKey>{tok}</apiKey>",
    '"connectionString": "Server=db;User=sa;Password={pw};"',
    "mongodb+srv://app:{pw2}@cluster0.ab1cd.mongodb.net/test",
    "amqp://guest:{pw2}@rabbit:5672/",
    "jdbc:postgresql://db/x?user=app&password={pw2}",
    "sqlplus scott/{pw2}@orcl",
    "The admin password was changed to {pw} yesterday.",
    "login with user admin and password {pw}",
    "credentials: admin / {pw}",
    "user: admin pass: {pw}",
    "pw: {pw}",
    "PWD_ADMIN={pw}",
    "TWILIO_AUTH_TOKEN={hex32}",
    "CLOUDFLARE_API_TOKEN={tok40}",
    "DATADOG_API_KEY={hex32}",
    "HEROKU_API_KEY={uuid}",
    "OKTA_TOKEN=00{tok40}",
    '"auth": "{basic}"',
    "proxy_password: {pw}",
    "redis-cli -h h -a {pw} ping",
    "mysql --password={pw} -u root",
    "PGPASSWORD='{pw}' pg_dump x",
    "sshpass -p{pw} scp a b",
    "openssl enc -aes-256-cbc -k {pw} -in a",
    "gpg --batch --passphrase {pw} -c f",
    "ansible_ssh_pass={pw}",
    "ansible_become_password: {pw}",
    "helm install x --set auth.password={pw}",
    "kubectl create secret generic db --from-literal=password={pw}",
    'gh secret set DEPLOY_KEY --body "{tok}"',
    "aws configure set aws_secret_access_key {aws}",
    "export AWS_SECRET_ACCESS_KEY={aws}",
    "AWS_SESSION_TOKEN={long}",
    "aws_session_token = {long}",
    '"SecretKey": "{aws}"',
    "GOOGLE_API_KEY={tok}",
    'const config = {{ apiKey: "{tok}", authDomain: "x" }}',
    "new Client({{ token: '{tok}' }})",
    'client = OpenAI(api_key="{tok}")',
    'headers={{"X-API-Key": "{tok}"}}',
    "headers: {{ 'x-api-key': '{tok}' }},",
    "Set-Cookie: sid={tok}; Path=/; HttpOnly",
    "-H 'Cookie: session_id={tok}'",
    "X-Amz-Signature={hex64}&X",
    "AccountKey={b64}==",
    "SharedAccessKey={b64}=",
    "?sv=2020&sig={tok}%3D",
    'DOCKER_AUTH_CONFIG={{"auths":{{"r.io":{{"auth":"{basic}"}}}}}}',
    ".dockerconfigjson: {b64json}",
    "//npm.pkg.github.com/:_authToken={tok}",
    "_password={b64}",
    "always-auth=true _auth={basic}",
    "[pypi]\nusername = __token__\npassword = {tok}",
    "api_secret = {tok}",
    'consumer_secret: "{tok}"',
    'bot_token="{tok}"',
    "SLACK_SIGNING_SECRET={hex32}",
    "VAULT_TOKEN=s.{tok24}",
    "SENTRY_DSN=https://{hex32}@o1.ingest.sentry.io/1",
    'private_key = "{hex64}"',
    "0x private key: {hex64}",
    'passphrase = "{pw}"',
    "licenseKey: {lic}",
    "SMTP_PASS={pw}",
    "EMAIL_HOST_PASSWORD={pw}",
    '"pass": "{pw}"',
    "'passwd': '{pw}'",
    '"pwd":"{pw}"',
    '"client_secret" : "{tok}"',
    '"secret":"{tok}"',
    '\\\\"password\\\\": \\\\"{pw}\\\\"',
    "password%3D{pw2}%26next",
    "%22token%22%3A%22{tok}%22",
    '"authorization": "Basic {basic}"',
    "Authorization:Bearer {tok}",
    "authorization=Bearer%20{tok}",
    "authToken: {tok},",
    "api-key={tok};",
    "+API_TOKEN={tok}",
    "-password: {pw}",
    " 12│ API_TOKEN={tok}",
    ".env:3:API_TOKEN={tok}",
    "config.yml:12:  password: {pw}",
    'src/a.py-12-    api_key="{tok}"',
)
"""More places of a secret; ``{tok}``, ``{pw}`` … are filled in by :func:`forms`."""


def forms(rng: random.Random) -> list[Plant]:
    """Every form of :data:`FORMS` with values of its own."""
    out = []
    for form in FORMS:
        word = draw(rng, ALNUM, 12)
        basic = base64.b64encode(f"bob:{word}".encode()).decode()
        values = {
            "pw": draw(rng, ALNUM, 6) + rng.choice("!@%^*#") + draw(rng, ALNUM, 5),
            "pw2": word,
            "tok": draw(rng, ALNUM, 32),
            "tok24": draw(rng, ALNUM, 24),
            "tok40": draw(rng, ALNUM, 40),
            "uuid": uuid(rng),
            "hex": draw(rng, HEX, 128),
            "hex32": draw(rng, HEX, 32),
            "hex64": draw(rng, HEX, 64),
            "aws": draw(rng, ALNUM + "+/", 40),
            "long": draw(rng, ALNUM + "+/", 300),
            "lic": "-".join(draw(rng, UPPER + DIGITS, 5) for _ in range(5)),
            "b64": base64.b64encode(rng.randbytes(32)).decode().rstrip("="),
            "basic": basic,
            "b64pem": base64.b64encode(pem(rng)[0].encode()).decode(),
            "b64json": base64.b64encode(json.dumps({"auths": {"r.io": {"auth": basic}}}).encode()).decode(),
        }
        name = next(n for n in values if "{" + n + "}" in form)
        out.append(Plant(form[:40], form.format(**values), values[name]))
    return out


PEOPLE = ("Renske Waldau", "Obinna Castell", "Ilkay Morvane")
USERS = ("rwaldau", "ocastell")

CONTEXTS: dict[str, Callable[[str], str]] = {
    "plain": lambda s: s,
    "sentence": lambda s: f"I found this in the log:\n\n{s}\n\nand went on with the patrol.",
    "json_string": lambda s: json.dumps({"stdout": s, "stderr": "", "interrupted": False}),
    "json_twice": lambda s: json.dumps({"content": json.dumps({"out": f"line\n{s}\nend"})}),
    "tool_lines": lambda s: "\n".join(f"{i:>6}\t{x}" for i, x in enumerate(s.split("\n"), 1)),
    "diff": lambda s: "@@ -1 +1 @@\n" + "\n".join("+" + x for x in s.split("\n")),
    "ansi": lambda s: f"\x1b[32mok\x1b[0m \x1b[1m{s}\x1b[0m",
    "code_block": lambda s: f"```sh\n{s}\n```",
}


def transcript(texts: list[str], rng: random.Random) -> str:
    """JSON lines as the client writes them, with ``texts`` in prompts, replies, commands and results."""
    out = []
    for number, text in enumerate(texts):
        tool = "toolu_" + draw(rng, ALNUM, 24)
        base = {
            "sessionId": uuid(rng),
            "cwd": "/town/deacon",
            "version": "2.1.197",
            "timestamp": "2026-11-23T08:06:14.063Z",
        }
        blocks: list[dict[str, object]] = [
            {"type": "text", "text": text},
            {"type": "tool_use", "id": tool, "name": "Bash", "input": {"command": text, "timeout": 120000}},
        ]
        result = {"type": "tool_result", "tool_use_id": tool, "content": text, "is_error": False}
        message = {"id": "msg_" + draw(rng, ALNUM, 22), "role": "assistant", "content": [blocks[number % 2]]}
        out.append({"type": "assistant", "uuid": uuid(rng), "message": message, **base})
        message = {"role": "user", "content": [result if number % 3 else {**result, "content": [blocks[0]]}]}
        out.append(
            {"type": "user", "uuid": uuid(rng), "message": message, "toolUseResult": {"stdout": text}, **base}
        )
    return "".join(json.dumps(line) + "\n" for line in out)


HARD_NEGATIVES: tuple[str, ...] = (
    "commit 3f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a",
    "HEAD is now at 8aa1b2c Fix the token budget of the prime",
    "3d58e141-03cf-41f5-97a4-0bcb1b9d2f78",
    "session:3d58e141-03cf-41f5-97a4-0bcb1b9d2f78 pid:10111",
    "bd show hq-abc && bd close dm-x1y2 --reason 'done'",
    "hq-wisp-4kq2 depends on gt-mol-91ax",
    "password_hash VARCHAR(255) NOT NULL",
    "SELECT id, password_hash, token_count FROM users",
    "API_KEY=${API_KEY}",
    "export GITHUB_TOKEN=$GITHUB_TOKEN",
    'curl -H "Authorization: Bearer $TOKEN" https://api.acme.io',
    "Authorization: Bearer <your-token>",
    "OPENAI_API_KEY=sk-your-key-here",
    "api_key: <your-api-key>",
    "password: {{ vault_db_password }}",
    "token: ${{ secrets.GITHUB_TOKEN }}",
    'secret = os.environ["APP_SECRET"]',
    "const token = process.env.API_TOKEN;",
    "token = get_token(user)",
    "def login(user: str, password: str) -> Token:",
    "if token is None: raise ValueError('token missing')",
    '"integrity": "sha512-'
    '9NykojV5Uih4lgo5So5dtw+f0JgJX30KCNI8gwhz2J9A15wD0Ml6tjHKwf6fTSa6fAdVBdZeNOs9eJ71qCk8vA=="',
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "image: redis@sha256:2a1b6f8e9d0c7b5a4e3f2d1c0b9a8f7e6d5c4b3a2f1e0d9c8b7a6f5e4d3c2b1a",
    "h1:7oXFsN0mDpbVTCr9XyP5fLBXY2zWmEXqxkN1OQ2Y0tA=",
    "http://127.0.0.1:3307/health",
    "listening on localhost:24311 and [::1]:8080, 0.0.0.0:80",
    "netmask 255.255.255.0, DNS 8.8.8.8, docker 172.17.0.0/16",
    "gt mail send mayor/ -s 'token budget' -m 'see hq-12'",
    "gt sling dm-x1y2 demo --agent gt-ft-deacon --no-boot",
    "bd update dm-4f2a --status in_progress --assignee demo/polecats/Toast",
    "claude-opus-4-6-20260115 and claude-haiku-4-5, gpt-5.2-codex, gt-ft-deacon:v2",
    "toolu_01A09q90qw90lq917835lq9 -> msg_013Zva2CMHLNnXjNJJKqJ2EF",
    "req_011CSHoEeqs5C35K2UUqR7Fy",
    '"usage": {"input_tokens": 1024, "cache_read_input_tokens": 20480, "output_tokens": 512}',
    "max_tokens=32000 token_count=17 next_page_token=abc",
    "2026-11-23T08:06:14.785Z +0100 1795421172 1795421172498 1795421172498366509",
    "took 0.1234567 s (12.345 ms), 3 passed, 1 skipped in 4.56s",
    "v2.1.197 1.0.1-39 torch==2.13.0 node@20.11.1 1.2.3.4.5 Chrome/120.0.6099.109",
    "version 10.4.2.1 of the plugin",
    "lodash@4.17.21 @types/node@20.1.0 actions/checkout@v4",
    "git@github.com:acme/widgets.git",
    "https://github.com/acme/widgets/pull/412#issuecomment-2041234567",
    "ssh://git@gitlab.com/acme/widgets.git",
    "Co-Authored-By: Claude <noreply@anthropic.com>",
    "@app.route('/login') @pytest.mark.live icon@2x.png",
    "/root/.ssh/config /home/ubuntu/app /usr/local/bin/gt",
    "pwd && ls -la && cat Makefile",
    "All tests pass: 41 passed in 2.10s",
    "-p 8080:80 -u 1000:1000 --user 501:20",
    "docker run -p 5432:5432 -e POSTGRES_PASSWORD postgres",
    "risk-based task-force ask-me desk-top-publishing-system-for-teams",
    "cacheCreationInputTokens SessionStartHookAdditionalContext ThisIsAVeryLongCamelCaseIdentifier",
    "pages 555 1234 of 2026-11-23 08:06:14,063 INFO worker-3",
    "0000:00:1f.2 SATA 12:34:56 00:01:02.345",
    "fe80::1 ::1 std::string gt::Town::root crate::mod::name",
    "width=1920 height=1080 id=4211733 count=9007199254740991",
    "BenchmarkScan-8  1000000  1052 ns/op  512 B/op  3 allocs/op",
    "uid=0(root) gid=0(root) groups=0(root)",
    "-----BEGIN CERTIFICATE-----",
    "ssh-keygen -t ed25519 -C comment",
    "the secret of good tests is speed; the key is to pass them; keep a token effort",
    "password must be at least 8 characters, token: the bearer token of the endpoint",
    "Basic usage: bearer authentication, basic authentication and API keys",
    'type="password" name="password" autocomplete="current-password"',
    '{"type": "object", "properties": {"token": {"type": "string"}, "password": {"type": "string"}}}',
    '"password": "string", "api_key": null, "secret": true',
    "refs/heads/polecat/Toast/dm-x1y2@mk3f9a2b",
    "patrol 12: 3 rigs, 14 polecats, 2 wisps; cycle 41 of 96",
    "Flight 212 555 passengers; room 415, 5551 seats",
    "0x7ffee3b0 0xdeadbeefcafebabe 0b1011",
    "arXiv:2307.00714 ISBN 978-3-16-148410-0",
    "c3VjY2Vzcw== aGVsbG8gd29ybGQ=",
    "5 Fast Way to go",
    "PASS: read-inside-project",
    "second pass: validate completeness, shrink_pass: ShrinkPass, pass `--insecure` to it",
    "src/users/profile.test.js failed",
    "host, port, secret_key = s3_connection",
    "authorization = base64.decodebytes(value)",
    "Name.Builtin: '#AA22FF'",
    "birthtime: 2019-06-22T03:28:46.000Z",
    "update V8 to 5.0.71.52, OID 2.5.29.37, __version__ = '3.5.0.1'",
    "token: TextGenerationStreamOutputToken",
    "define XXH3_initCustomSecret XXH3_initCustomSecret_avx512",
    "Ed25519PrivateKey|Ed25519PublicKey|Ed448PrivateKey|Ed448PublicKey",
    "mask_token=mask_token, password=self._password, token=auth_info[0]",
    '"pgpass": "1.0.5"',
    "the option --registry-password requires a user",
    "commit --author 'Gas Town Sync <noreply@anthropic.com>'",
)
