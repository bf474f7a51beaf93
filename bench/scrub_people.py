"""Personal data that bench/scrub.py plants, and what must stay as it is.

Numbers with a check digit are made by the issuer's own rule, written down anew here. Names are those of a
list that the scrubber is told (as it would read them from git and town files); names in free prose that
nobody lists are a group of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from scrub_cases import ALNUM, HEX, LOW, NUM, UP, Plant, Rng, _wrap, some, uuid4

PEOPLE = ("Marisol Okonkwo", "Thaddeus Brannigan", "Ingeborg Salvesen")
FREE_NAMES = ("Philippa Thorne", "Dmitri Volkov", "Aisha Rahman", "Carlos Mendieta", "Yuki Tanabe")
USERS = ("mokonkwo", "tbrannigan")


def digits(rng: Rng, count: int) -> str:
    return "".join(rng.choice(NUM) for _ in range(count))


def luhn(body: str) -> str:
    total = sum(
        int(d) if place % 2 else sum(divmod(2 * int(d), 10)) for place, d in enumerate(reversed(body))
    )
    return body + str(-total % 10)


def card(rng: Rng) -> str:
    brand, size = rng.choice((("4", 16), ("51", 16), ("2221", 16), ("37", 15), ("6011", 16), ("3528", 16)))
    number = luhn(brand + digits(rng, size - 1 - len(brand)))
    if size == 15:
        groups = [number[:4], number[4:10], number[10:]]
    else:
        groups = [number[i : i + 4] for i in range(0, 16, 4)]
    return rng.choice((number, " ".join(groups), "-".join(groups)))


def iban(rng: Rng) -> str:
    country, bban = rng.choice(
        (
            ("DE", digits(rng, 18)),
            ("GB", some(rng, UP, 4) + digits(rng, 14)),
            ("FR", digits(rng, 10) + some(rng, UP + NUM, 11) + digits(rng, 2)),
            ("NL", some(rng, UP, 4) + digits(rng, 10)),
            ("ES", digits(rng, 20)),
            ("CH", digits(rng, 17)),
            ("NO", digits(rng, 11)),
            ("IT", some(rng, UP, 1) + digits(rng, 22)),
            ("PL", digits(rng, 24)),
        )
    )
    bban = bban.replace("\0", "0")
    check = 98 - int("".join(str(int(c, 36)) for c in bban + country + "00")) % 97
    whole = f"{country}{check:02d}{bban}"
    return rng.choice((whole, " ".join(whole[i : i + 4] for i in range(0, len(whole), 4))))


def us_phone(rng: Rng) -> str:
    area = rng.choice(("212", "415", "312", "617", "206", "512"))
    return f"{area}|{rng.randint(220, 998)}|{rng.randint(1000, 9999)}"


def phone(rng: Rng) -> str:
    a, b, c = us_phone(rng).split("|")
    two = [digits(rng, 2) for _ in range(4)]
    d8, d7 = str(rng.randint(2, 9)) + digits(rng, 7), str(rng.randint(2, 9)) + digits(rng, 6)
    return rng.choice(
        (
            f"({a}) {b}-{c}",
            f"{a}-{b}-{c}",
            f"{a}.{b}.{c}",
            f"+1 {a} {b} {c}",
            f"+1{a}{b}{c}",
            f"+1-{a}-{b}-{c}",
            f"+44 20 7946 {c}",
            f"+44 7911 {d7[:6]}",
            f"+49 30 {d8}",
            f"+49 151 {d8}",
            f"+33 6 {' '.join(two)}",
            f"+34 6{two[0]} {d7[:3]} {d7[3:6]}",
            f"+39 347 {d7}",
            f"+31 6 {d8}",
            f"+46 70 {d7[:3]} {two[0]} {two[1]}",
            f"+91 98{two[0]}{two[1]} {two[2]}{two[3]}{c[0]}",
            f"+55 11 9{c} {d8[:4]}",
            f"+61 4{two[0]} {d7[:3]} {d7[3:6]}",
            f"+81 90 {c} {d8[:4]}",
            f"+86 138 {c} {d8[:4]}",
        )
    )


def dni(rng: Rng) -> str:
    number = rng.randint(10_000_000, 99_999_999)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def cpf(rng: Rng) -> str:
    nums = [rng.randrange(10) for _ in range(9)]
    for size in (10, 11):
        total = sum(n * w for n, w in zip(nums, range(size, 1, -1), strict=True))
        nums.append((total * 10 % 11) % 10)
    d = "".join(map(str, nums))
    return f"{d[:3]}.{d[3:6]}.{d[6:9]}-{d[9:]}"


def insee(rng: Rng) -> str:
    born = f"{rng.randint(1, 2)}{rng.randint(50, 99)}{rng.randint(1, 12):02d}"
    body = f"{born}75{rng.randint(100, 999)}{rng.randint(100, 999)}"
    return f"{body}{97 - int(body) % 97:02d}"


def ssn(rng: Rng) -> str:
    return f"{rng.randint(100, 665)}-{rng.randint(10, 99)}-{rng.randint(1000, 9999)}"


def nino(rng: Rng) -> str:
    lead = rng.choice(("AB", "CE", "HJ", "JG", "PT", "WK"))
    return f"{lead} {digits(rng, 2)} {digits(rng, 2)} {digits(rng, 2)} C"


def public_ipv4(rng: Rng) -> str:
    first, second = rng.choice((23, 45, 62, 81, 91, 138, 151, 185, 203)), rng.randint(31, 250)
    return f"{first}.{second}.{rng.randint(1, 254)}.{rng.randint(1, 254)}"


def ipv6(rng: Rng) -> str:
    parts = ["2a02", *(f"{rng.randint(0x1000, 0xFFFF):x}" for _ in range(3))]
    return rng.choice(
        (":".join(parts) + f"::{rng.randint(1, 0xFFFF):x}", ":".join([*parts, *parts[1:], "a1b2"]))
    )


def mac(rng: Rng) -> str:
    return rng.choice((":", "-")).join(f"{n:02x}" for n in (0x3C, *(rng.randrange(256) for _ in range(5))))


def email(rng: Rng) -> str:
    first, last = rng.choice(("mira", "jonas", "kofi", "lena")), some(rng, LOW, 7)
    local = rng.choice(
        (f"{first}.{last}", f"{first[0]}{last}", f"{first}_{last}", f"{first}+ci", f"{first}{digits(rng, 2)}")
    )
    domain = rng.choice(("gmail.com", f"{last}.io", f"mail.{last}.co.uk", f"{last}.de", "outlook.com"))
    return f"{local}@{domain}"


def born(rng: Rng) -> str:
    y, m, d = rng.randint(1950, 2004), rng.randint(1, 12), rng.randint(13, 28)
    month = ("January", "March", "April", "June", "July", "August")[m % 6]
    return rng.choice(
        (f"{y}-{m:02d}-{d}", f"{m:02d}/{d}/{y}", f"{d}.{m:02d}.{y}", f"{month} {d}, {y}", f"{d} {month} {y}")
    )


def street(rng: Rng) -> str:
    name, number = some(rng, LOW, 7).capitalize(), rng.randint(2, 899)
    return rng.choice(
        (
            f"{number} {name} {rng.choice(('Street', 'Avenue', 'Road', 'Lane', 'Drive', 'Blvd'))}",
            f"{number} {name} St",
            f"{name}straße {number}",
            f"{name} Str. {number}",
            f"{number} rue de {name}",
            f"Calle {name} {number}",
            f"Via {name} {number}",
        )
    )


def gps(rng: Rng) -> str:
    return f"{rng.uniform(20, 60):.6f}, {rng.uniform(-120, 120):.6f}"


def user(rng: Rng) -> str:
    return rng.choice((some(rng, LOW, 8), f"{rng.choice('jmk')}.{some(rng, LOW, 6)}", some(rng, LOW, 5)))


def vin(rng: Rng) -> str:
    return "WVW" + some(rng, "ABCDEFGHJKLMNPRSTUVWXYZ" + NUM, 8) + digits(rng, 6)


TYPES: dict[str, tuple[Callable[[Rng], str], tuple[str, ...]]] = {
    "email": (
        email,
        (
            "write to {v}",
            '"email": "{v}"',
            "From: <{v}>",
            "mailto:{v}",
            "{v},active,2026",
            "user {v} logged in",
        ),
    ),
    "phone": (
        phone,
        ("call {v} after six", '"phone": "{v}"', "Tel: {v}", "reach me at {v}.", "mobile={v}", "{v}"),
    ),
    "ipv4": (
        public_ipv4,
        (
            "Accepted publickey for git from {v} port 52144 ssh2",
            '{v} - - [23/Nov/2026] "GET /" 200',
            '"client_ip": "{v}"',
            "ssh ops@{v}",
            "http://{v}:8080/x",
        ),
    ),
    "ipv6": (ipv6, ("inet6 {v}/64 scope global", "http://[{v}]:8080/", "from {v} port 443")),
    "mac": (mac, ("link/ether {v} brd ff:ff:ff:ff:ff:ff", "HWaddr {v}", '"mac": "{v}"')),
    "card": (card, ("card {v} exp 04/29", '"pan": "{v}"', "charged {v}", "{v}")),
    "iban": (iban, ("IBAN {v}", '"iban": "{v}"', "pay to {v}", "{v}")),
    "us ssn": (ssn, ("SSN {v}", '"ssn": "{v}"', "social security number is {v}", "{v}")),
    "uk nino": (nino, ("NI number {v}", "national insurance: {v}", "{v}")),
    "es dni": (dni, ("DNI {v}", '"dni": "{v}"', "DNI: {v}")),
    "br cpf": (cpf, ("CPF {v}", '"cpf": "{v}"', "{v}")),
    "fr insee": (insee, ("NIR {v}", "numéro de sécurité sociale : {v}", '"insee": "{v}"')),
    "passport": (
        lambda r: some(r, UP, 1) + digits(r, 8),
        ("passport no. {v}", '"passport_number": "{v}"', "Passport: {v}"),
    ),
    "driving licence": (
        lambda r: some(r, UP, 1) + digits(r, 7),
        ("driver's license {v}", '"drivers_license": "{v}"', "license number: {v}"),
    ),
    "birth date": (
        born,
        ("born {v}", '"date_of_birth": "{v}"', "DOB: {v}", "birthday={v}", "date of birth: {v}"),
    ),
    "street": (street, ("ships to {v}", '"address": "{v}"', "lives at {v}, second floor", "Address: {v}")),
    "gps": (gps, ("home is at {v}", '"location": "{v}"', "GPS: {v}", "coordinates {v}")),
    "home folder": (
        user,
        (
            "cd /home/{v}/src",
            "/Users/{v}/Library/Logs",
            "C:\\Users\\{v}\\Desktop",
            "file:///home/{v}/a.txt",
            "~{v}/x at /home/{v}/x",
        ),
    ),
    "bank account": (
        lambda r: str(r.randint(10**8, 10**10)),
        ("account number: {v}", '"account_number": "{v}"', "bank account {v}"),
    ),
    "number plate": (
        lambda r: f"{some(r, UP, 2)}{digits(r, 2)} {some(r, UP, 3)}",
        ("license plate {v}", '"plate": "{v}"', "number plate: {v}"),
    ),
    "imei": (lambda r: luhn("35" + digits(r, 12)), ("IMEI {v}", '"imei": "{v}"', "IMEI: {v}")),
    "vin": (vin, ("VIN {v}", '"vin": "{v}"', "VIN: {v}")),
}
NAME_FORMS = (
    "ask {v} about it",
    "Signed-off-by: {v} <x@users.noreply.github.com>",
    "assigned to {v}",
    '"owner": "{v}"',
    "{v} merged it",
    "cc @{v}",
    "see {v}'s note",
)
FREE_FORMS = (
    "ask {v} about it",
    "{v} merged the branch",
    "I met {v} yesterday",
    "Author: {v} <q@users.noreply.github.com>",
)


def plants(rng: Rng) -> list[Plant]:
    """One of every type, in some carrier and wrapper."""
    out = []
    for kind, (make, forms) in TYPES.items():
        value, form = make(rng), rng.choice(forms)
        gone = value if kind != "home folder" else _home(form, value)
        out.append(_wrap(rng, kind, "personal", form.replace("{v}", value), gone, form))
    for group, names, forms in (("name", PEOPLE, NAME_FORMS), ("free name", FREE_NAMES, FREE_FORMS)):
        name, form = rng.choice(names), rng.choice(forms)
        if group == "name":
            name = rng.choice(
                (name, name, name.lower(), name.split()[1], name.upper(), name.replace(" ", "-"))
            )
        out.append(_wrap(rng, group, group, form.replace("{v}", name), name, form))
    user_name = rng.choice(USERS)
    out.append(_wrap(rng, "user name", "name", f"chown {user_name}:staff x", user_name, "chown"))
    return out


def _home(form: str, value: str) -> str:
    at = form.index("{v}")
    return form[max(0, at - 6) : at].replace("~", "") + value


# --- what must stay ---------------------------------------------------------------------------------------


def negatives(rng: Rng) -> list[str]:
    """Lines in which nothing may change."""
    sha1, sha256, hex32 = some(rng, HEX, 40), some(rng, HEX, 64), some(rng, HEX, 32)
    sri = some(rng, ALNUM + "+/", 86) + "=="
    bead = f"{rng.choice(('hq', 'dm', 'gt', 'ft'))}-{some(rng, LOW + NUM, 4)}"
    word = rng.choice(("deacon", "witness", "refinery", "polecat"))
    return [
        f"commit {sha1}",
        f"HEAD is now at {sha1[:8]} Fix the token count",
        f"index {sha1[:7]}..{sha256[:7]} 100644",
        f"Merge: {sha1[:9]} {sha256[:9]}",
        f"session {uuid4(rng)} ended",
        f'"uuid": "{uuid4(rng)}", "parentUuid": "{uuid4(rng)}"',
        f"bd show {bead} && bd close {bead} --reason done",
        f"{bead} depends on {bead}x, {bead}.1 and {bead}.2",
        f"gt sling {bead} demo --agent gt-ft-{word}",
        f"toolu_{some(rng, ALNUM, 24)} answers msg_{some(rng, ALNUM, 22)}",
        f"req_{some(rng, ALNUM, 24)}",
        "password_hash TEXT NOT NULL,",
        "SELECT password_hash, reset_token_expires_at FROM users WHERE id = 7",
        "API_KEY=${API_KEY}",
        "export TOKEN=$TOKEN",
        'curl -H "Authorization: Bearer ${TOKEN}" http://127.0.0.1:8080/',
        "password: {{ .Values.db.password }}",
        "token: ${{ secrets.NPM_TOKEN }}",
        'api_key = os.environ["API_KEY"]',
        "const token = process.env.TOKEN",
        "DB_PASSWORD=<your-password>",
        "secret: changeme",
        "AWS_SECRET_ACCESS_KEY=xxxxxxxxxxxxxxxxxxxx",
        f'"integrity": "sha512-{sri}",',
        f"resolved https://registry.example/x.tgz#{sha1}",
        f"github.com/a/b v1.2.3 h1:{some(rng, ALNUM + '+/', 43)}=",
        f"sha256:{sha256}",
        f"image: r.acme.dev/app@sha256:{sha256}",
        f"    --hash=sha256:{sha256} \\",
        f'checksum = "{sha256}"',
        f"md5 {hex32}  dist.tar.gz",
        f'ETag: "{hex32}"',
        "http://127.0.0.1:3307/health and http://localhost:5173",
        "listening on [::1]:8080, 0.0.0.0:80, ::",
        "127.0.0.1 - - GET /",
        "255.255.255.0 via 0.0.0.0",
        "version 3.11.7.2 build 20261123",
        "python==3.12.4 node v20.11.1",
        f"took {rng.random():.6f}s at 17952{digits(rng, 5)}.{digits(rng, 3)}",
        f"17952{digits(rng, 8)}",
        "max_tokens: 4096, token_count: 812, pad_token_id: 0",
        "def check_password(self, password: str) -> bool:",
        "if (!token) throw new Error('no token')",
        'raise ValueError("password must not be empty")',
        '{"type": "object", "properties": {"api_key": {"type": "string"}}}',
        f"gid://acme/Order/{digits(rng, 6)}",
        f"arn:aws:s3:::acme-{word}/logs",
        f"refs/heads/polecat/Toast/{bead}",
        "Co-Authored-By: Claude <noreply@anthropic.com>",
        "git@github.com:acme/widgets.git",
        f"-rw-r--r-- 1 root root {digits(rng, 5)} Nov 23 08:06 notes.md",
        f"{rng.randint(1, 400)} passed, 2 skipped in {rng.random() * 9:.2f}s",
        "the secret of a good patrol is a short one; tokens are cheap",
        f"patrol {rng.randint(1, 90)}: {word} answered, no escalation",
        "color: #a1b2c3; z-index: 1000; width: 1920px",
        f"line {rng.randint(10, 999)}, column {rng.randint(1, 80)}",
        "2026-11-23T08:06:14.785Z INFO started",
        "0x7ffee3b0 0xdeadbeef",
        f"PR #{rng.randint(1, 4000)} closes #{rng.randint(1, 4000)}",
        "ssh-keygen -t ed25519 -C comment",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
        "lorem ipsum dolor sit amet, consectetur adipiscing elit",
        "ISBN 978-3-16-148410-0, arXiv:2307.00714, doi:10.1000/182",
        "user_id=12345 order=1000234567 sku=AB-1234-XY",
        "Basic usage: gt prime --explain; Bearer of news",
    ]
