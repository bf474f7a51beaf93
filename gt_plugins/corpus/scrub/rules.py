"""Providers' key formats: a literal that announces the key, the pattern of its body, sometimes a check.

A rule's groups are what is replaced; the announcing prefix stays, so that the surrogate keeps the type.
Formats are the providers' own documentation and what public scanners agree on.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from .judge import is_placeholder, looks_random
from .scan import entropy
from .seal import BASE62


@dataclass(frozen=True)
class Rule:
    """``pattern`` is tried ``back`` characters before each place of one of ``keywords`` (lower case)."""

    kind: str
    keywords: tuple[str, ...]
    pattern: re.Pattern[str]
    check: Callable[[str], bool]
    back: range = range(1)


def varied(body: str) -> bool:
    """No filler such as ``xxxx``: at least five different characters and no placeholder word."""
    return len(set(body)) >= 5 and not is_placeholder(body)


def strong(body: str) -> bool:
    """Digits and letters with the entropy of something generated; for prefixes that words also begin with."""
    return looks_random(body, 16) and any(c.isdigit() for c in body) and entropy(body) >= 3.0


def github(body: str) -> bool:
    """GitHub's tokens end in a base-62 CRC-32; one that fits is real whatever it looks like."""
    return crc32_base62(body[:-6]) == body[-6:] or varied(body)


def crc32_base62(body: str) -> str:
    """The six characters that GitHub and npm append to 30 random ones."""
    number, out = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        out = BASE62[digit] + out
    return out


def _rule(
    kind: str, prefixes: str, body: str, check: Callable[[str], bool] = varied, after: str = ""
) -> Rule:
    words = prefixes.split()
    announced = "|".join(re.escape(w) for w in words)
    body = body if re.compile(body).groups else f"({body})"
    pattern = re.compile(f"(?:{announced}){body}{after}", re.ASCII)
    return Rule(kind, tuple(w.lower() for w in words), pattern, check)


def _around(
    kind: str, keywords: str, pattern: str, back: range, check: Callable[[str], bool] = varied
) -> Rule:
    return Rule(kind, tuple(keywords.split()), re.compile(pattern, re.ASCII), check, back)


_END = r"(?![A-Za-z0-9_])"
_HEX32, _HEX40, _HEX64 = (rf"[a-fA-F0-9]{{{n}}}" for n in (32, 40, 64))
_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_SLACK = (
    r"(?:(\d{9,14})-(?:(\d{9,14})-)?(?:(\d{9,14})-)?([A-Za-z0-9]{16,40})(?![\w-])|([A-Za-z0-9-]{10,300}))"
)
_TWILIO = " ".join(f"{p}{d}" for p in ("sk", "ac") for d in "0123456789abcdef")

RULES: tuple[Rule, ...] = (
    # clouds
    _rule("aws_access_key", "AKIA ASIA ABIA ACCA", "[A-Z0-9]{16}", after=_END),
    _rule("aws_access_key", "A3T", "[A-Z0-9]{17}", strong, _END),
    _rule("aws_bedrock_key", "ABSK bedrock-api-key-", "[A-Za-z0-9+/]{60,400}={0,2}"),
    _rule("google_api_key", "AIza", r"[\w-]{30,45}"),
    _rule("google_oauth_secret", "GOCSPX-", r"[\w-]{20,40}"),
    _rule("google_oauth_token", "ya29. 1//0", r"(?:[\w-]|\.(?=[\w-])){20,512}", strong),
    _around("firebase_key", ":apa91b", r"([\w-]{8,24}:APA91b[\w-]{100,200})", range(8, 25)),
    _around("azure_client_secret", "q~", r"([\w~.]{3}\dQ~[\w~.-]{31,34})", range(4, 5)),
    _rule("digitalocean_token", "dop_v1_ doo_v1_ dor_v1_", "[a-f0-9]{40,64}"),
    _rule("alibaba_key", "LTAI", "[A-Za-z0-9]{12,24}", strong, _END),
    _rule("tencent_key", "AKID", "[A-Za-z0-9]{32}", after=_END),
    _rule("yandex_key", "AQVN", r"[\w-]{35,38}"),
    _rule("scaleway_key", "SCW", "[A-Z0-9]{17}", strong, _END),
    _rule("heroku_key", "HRKU-", r"[\w-]{30,64}"),
    _rule("flyio_token", "fo1_ fm1r_ fm1a_ fm2_ FlyV1", r"\s?([\w+/-]{40,600}={0,3})"),
    _rule("cloudflare_ca_key", "v1.0-", r"[a-f0-9]{24}-[a-f0-9]{146}"),
    _rule("netlify_token", "nfp_ nfc_ nfo_", "[A-Za-z0-9]{36,46}"),
    _rule("planetscale_token", "pscale_tkn_ pscale_pw_ pscale_oauth_", r"[\w.=-]{32,64}"),
    _rule("supabase_key", "sbp_ sb_secret_", r"[\w-]{22,64}", strong),
    _rule("nvidia_key", "nvapi-", r"[\w-]{40,80}"),
    _rule("tailscale_key", "tskey-", r"(?:(?:api|auth|client|webhook|scim)-)?([\w-]{16,80})", strong),
    # code hosting, packages, CI
    _rule("github_token", "ghp_ gho_ ghu_ ghs_ ghr_", "[A-Za-z0-9]{30,255}", github),
    _rule("github_token", "github_pat_", r"\w{40,255}"),
    _rule(
        "gitlab_token",
        "glpat- glptt- gldt- glrt- glcbt- glft- glffct- glimt- glagent- gloas- glsoat- GR1348941",
        r"(?:[\w-]|\.(?=[\w-])){20,300}",
    ),
    _rule("bitbucket_token", "ATBB ATCTT3", r"[\w=-]{28,255}", strong),
    _rule("atlassian_token", "ATATT3", r"[\w=-]{40,255}"),
    _rule("npm_token", "npm_", "[A-Za-z0-9]{36,64}"),
    _rule("pypi_token", "pypi-", r"[\w-]{50,1000}", strong),
    _rule("rubygems_key", "rubygems_", "[a-f0-9]{48}"),
    _rule("crates_token", "cio", "[A-Za-z0-9]{32}", strong, _END),
    _rule("nuget_key", "oy2", "[a-z0-9]{43}", after=_END),
    _rule("clojars_token", "CLOJARS_ clojars_", "[A-Za-z0-9]{60}"),
    _rule("docker_token", "dckr_pat_ dckr_oat_", r"[\w-]{20,64}"),
    _rule("circleci_token", "CCIPAT_ CCIPRJ_", r"\w{30,100}"),
    _rule("buildkite_token", "bkua_ bkct_", "[A-Za-z0-9]{40,64}"),
    _rule("artifactory_key", "AKCp cmVmd", "[A-Za-z0-9]{55,75}", strong),
    _rule("sonar_token", "squ_ sqp_ sqa_", _HEX40),
    _rule("sourcegraph_token", "sgp_ slk_", r"(?:local_)?((?:[a-fA-F0-9]{16}_)?[a-fA-F0-9]{40,64})"),
    _rule("octopus_key", "API-", "[A-Z0-9]{25,26}", strong, _END),
    _rule("pulumi_token", "pul-", _HEX40, after=_END),
    _rule("postman_key", "PMAK-", "[a-f0-9]{24}-[a-f0-9]{34}"),
    _rule("prefect_key", "pnu_ pnb_", "[A-Za-z0-9]{36}"),
    _rule("infracost_key", "ico-", "[A-Za-z0-9]{32}", strong, _END),
    _rule("openshift_token", "sha256~", r"[\w-]{43}", after=_END),
    # models
    _rule("anthropic_key", "sk-ant-", r"(?:[a-z]{2,10}\d{2}-)?([\w-]{20,255})"),
    _rule(
        "openai_key",
        "sk-",
        r"(?!ant-)(?:(?:proj|svcacct|admin|service|sess|None|or-v1|or|lf)-)?([\w-]{20,255})",
        strong,
    ),
    _rule("huggingface_token", "hf_ api_org_", "[A-Za-z0-9]{30,64}", after=_END),
    _rule("groq_key", "gsk_", "[A-Za-z0-9]{40,64}"),
    _rule("perplexity_key", "pplx-", "[A-Za-z0-9]{32,64}"),
    _rule("xai_key", "xai-", "[A-Za-z0-9]{40,128}"),
    _rule("replicate_token", "r8_", "[A-Za-z0-9]{30,40}", strong, _END),
    _rule("fireworks_key", "fw_", "[A-Za-z0-9]{20,40}", strong, _END),
    _rule("tavily_key", "tvly-", r"[\w-]{20,64}", strong),
    _rule("langsmith_key", "lsv2_pt_ lsv2_sk_", r"[a-f0-9]{32}_[a-f0-9]{10}"),
    _rule("pinecone_key", "pcsk_", r"\w{30,100}"),
    _rule("jina_key", "jina_", "[A-Za-z0-9]{40,80}"),
    _rule("cerebras_key", "csk-", "[a-z0-9]{40,60}"),
    _rule("wandb_key", "wandb_v1_", r"\w{40,100}"),
    _rule("apify_token", "apify_api_", "[A-Za-z0-9]{30,40}"),
    # messaging and payment
    _rule("slack_token", "xoxb- xoxp- xoxa- xoxr- xoxs- xoxc- xoxd- xoxe- xapp-", _SLACK),
    _rule("slack_webhook", "hooks.slack.com/", r"(?:services|workflows|triggers)/([A-Za-z0-9+/_-]{20,120})"),
    _rule("discord_webhook", "/api/webhooks/", r"\d{8,24}/([\w-]{40,100})"),
    _around("telegram_token", ":aa", r"(\d{8,10}:AA[\w-]{32,34})(?![\w-])", range(8, 11)),
    _rule("teams_webhook", "/webhookb2/", rf"({_UUID})@({_UUID})/IncomingWebhook/(\w{{32}})/({_UUID})"),
    _rule("zapier_webhook", "hooks.zapier.com/hooks/catch/", r"\d+/(\w{6,20})"),
    _around("twilio_key", _TWILIO, rf"(?:SK|AC)([0-9a-fA-F]{{32}}){_END}", range(1)),
    _rule("sendgrid_key", "SG.", r"[\w=-]{16,32}\.[\w=.-]{16,64}(?<!\.)", strong),
    _rule("mailgun_key", "key- pubkey-", _HEX32, after=_END),
    _around(
        "mailchimp_key",
        " ".join(f"-us{n}" for n in range(1, 10)),
        rf"({_HEX32})-us\d{{1,2}}(?!\w)",
        range(32, 33),
    ),
    _rule("brevo_key", "xkeysib- xsmtpsib-", "[a-f0-9]{64}-[A-Za-z0-9]{16}"),
    _rule("stripe_key", "sk_live_ sk_test_ sk_prod_ rk_live_ rk_test_ rk_prod_", "[A-Za-z0-9]{10,255}"),
    _rule("webhook_secret", "whsec_", "[A-Za-z0-9+/]{24,100}={0,2}"),
    _rule("square_token", "sq0atp- sq0csp- sq0idp- EAAA", r"[\w-]{22,64}", strong),
    _rule("shopify_token", "shpat_ shpca_ shppa_ shpss_ shptka_", _HEX32),
    _rule("paypal_token", "access_token$", r"(?:production|sandbox)\$([a-z0-9]{16}\$[a-f0-9]{32})"),
    _rule("plaid_token", "access-sandbox- access-development- access-production-", _UUID),
    _rule("flutterwave_key", "FLWSECK_TEST- FLWSECK- FLWPUBK_TEST-", r"[a-hA-H0-9]{12,32}(?:-X)?"),
    _rule("easypost_key", "EZAK EZTK", "[A-Za-z0-9]{54}"),
    _rule("duffel_token", "duffel_live_ duffel_test_", r"[\w=-]{43}"),
    _rule("shippo_token", "shippo_live_ shippo_test_", "[a-fA-F0-9]{40}"),
    _rule("facebook_token", "EAA", "[A-Za-z0-9]{60,400}", strong),
    _rule("twitter_bearer", "AAAAAAAAAAAAAAAAAAAAA", r"[\w%]{40,120}", strong),
    _rule("lob_key", "live_", "(?:pub_)?([a-f0-9]{31,35})", after=_END),
    _rule("gocardless_token", "live_", r"[\w=-]{40}", strong, _END),
    _rule("sidekiq_key", "CONTRIBSYS__COM contribsys__com", r"[\s\"'=:]{1,5}([a-f0-9]{8}:[a-f0-9]{8})"),
    # services
    _rule("clickhouse_key", "4b1d", "[A-Za-z0-9]{38}", strong, _END),
    _rule("harness_token", "pat. sat.", r"[\w-]{22}\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{20}", strong),
    _rule("mapbox_token", "sk.eyJ pk.eyJ tk.eyJ", r"[\w-]{20,300}\.[\w-]{20,30}", strong),
    _around("maxmind_key", "_mmk", rf"([A-Za-z0-9]{{6}}_[A-Za-z0-9]{{29}}_mmk){_END}", range(36, 37)),
    _around(
        "authress_key",
        ".acc- .acc_",
        r"((?:scauth|authress|sc|ext)_[a-z0-9]{5,30}\.[a-z0-9]{4,6}\.acc[_-][\w-]{10,32}\.[\w+/=-]{30,120})",
        range(10, 48),
    ),
    _rule("vault_token", "hvs. hvb. hvr.", r"[\w-]{24,300}", strong),
    _around("terraform_token", ".atlasv1.", r"([A-Za-z0-9]{14}\.atlasv1\.[\w=-]{60,72})", range(14, 15)),
    _rule("doppler_token", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim.", r"(?:\w{1,20}\.)?([A-Za-z0-9]{40,44})"),
    _rule("onepassword_token", "ops_", r"eyJ[\w+/-]{100,2000}={0,3}"),
    _rule(
        "onepassword_key", "A3-", r"[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})(?:-[A-Z0-9]{5}){3}"
    ),
    _rule("age_key", "AGE-SECRET-KEY-1", "[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    _rule("grafana_token", "glsa_ glc_", r"[\w+/]{32,400}={0,3}"),
    _rule("grafana_token", "eyJrIjoi", "[A-Za-z0-9]{60,400}={0,3}"),
    _rule("newrelic_key", "NRAK- NRII- NRJS- NRRA- NRSP-", r"[A-Za-z0-9-]{19,42}", strong),
    _rule("sentry_token", "sntrys_ sntryu_", r"[\w+/=-]{40,400}"),
    _rule("databricks_token", "dapi", r"[a-f0-9]{32}(?:-\d)?", after=_END),
    _rule("dynatrace_token", "dt0c01. dt0s01.", r"[A-Za-z0-9]{24}\.[A-Za-z0-9]{64}"),
    _rule("linear_key", "lin_api_ lin_oauth_", "[A-Za-z0-9]{32,64}"),
    _rule("notion_token", "ntn_", "[A-Za-z0-9]{40,50}"),
    _rule("notion_token", "secret_", "[A-Za-z0-9]{43}", strong, _END),
    _rule("figma_token", "figd_ figo_", r"[\w-]{36,64}"),
    _rule("contentful_token", "CFPAT-", r"[\w-]{43}"),
    _rule("hubspot_token", "pat-na1- pat-na2- pat-eu1-", _UUID),
    _rule("typeform_token", "tfp_", r"[\w.=-]{40,64}", strong),
    _rule("readme_key", "rdme_", "[a-z0-9]{60,80}"),
    _rule("frameio_token", "fio-u-", r"[\w=-]{60,68}"),
    _rule("adobe_secret", "p8e-", "[A-Za-z0-9]{32}", after=_END),
    _rule("posthog_key", "phx_", "[A-Za-z0-9]{40,64}"),
    _rule("scalingo_token", "tk-us-", r"[\w-]{48}"),
    _rule("intra42_secret", "s-s4t2ud- s-s4t2af-", _HEX64),
    _rule("defined_token", "dnkey-", r"[\w=-]{26}-[\w=-]{52}"),
    _rule("settlemint_token", "sm_aat_ sm_pat_ sm_sat_", "[A-Za-z0-9]{16}", after=_END),
    # hashes of passwords: cracked at leisure once they are out
    _rule("password_hash", "$2a$ $2b$ $2x$ $2y$", r"\d\d\$([./A-Za-z0-9]{53})"),
    _rule(
        "password_hash", "$1$ $5$ $6$ $apr1$", r"(?:rounds=\d+\$)?[^$\s\\\"']{1,16}\$([./A-Za-z0-9]{22,86})"
    ),
    _rule("password_hash", "$y$ $7$", r"[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$([./A-Za-z0-9]{43})"),
    _rule("password_hash", "$argon2", r"(?:id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+\$[\w+/]+\$([\w+/]{20,100})"),
    _rule("password_hash", "pbkdf2_sha256$", r"\d+\$[^$\s]{1,64}\$([\w+/]{40,90}={0,2})"),
)
