"""The demo's report: one HTML file without scripts or outside references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..durable import write_text

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d5dde5}
table{border-collapse:collapse;width:100%}
td,th{padding:.3rem .6rem;text-align:left;border-bottom:1px solid #e6ebf0}
td.n{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f4f6f8;padding:.8rem;overflow:auto}
.big{font-size:1.15rem;background:#eef4f9;padding:.8rem;border-left:4px solid #2b6cb0}
"""


def write_report(path: Path, values: Mapping[str, Any]) -> Path:
    """Write the page and return its path."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>gastown-finetune demo</title>",
        f"<style>{_STYLE}</style><h1>From a town's sessions to a gated role model</h1>",
        _summary(values),
        "<h2>Held-out situations</h2>" + _scores(values),
        "<h2>Training</h2>" + curve_svg(values["curve"]),
        f"<p>{values['tuning_seconds']} s, {values['tokens_per_second']:,} tokens/s on this machine.</p>",
        "<h2>Scrubbed before the first write</h2>" + _table(values["redactions"].items(), ("kind", "count")),
        "<h2>Dataset</h2>" + _dataset(values),
        "<h2>The gate</h2>" + f"<pre>{escape(values['refusal'])}</pre>",
        "<h2>A patrol, served</h2>" + f"<pre>{escape(chr(10).join(values['patrol']))}</pre>",
        "</html>",
    ]
    write_text(path, "\n".join(parts), mode=0o644)
    return path


def _summary(values: Mapping[str, Any]) -> str:
    tuned, base = values["tuned"], values["base"]
    return (
        f"<p class='big'>Decisions: {base['score']:.0%} right before, {tuned['score']:.0%} after tuning "
        f"(95 % interval {tuned['low']:.0%} to {tuned['high']:.0%}, {tuned['n']} situations), "
        f"{tuned['groups'].get('unseen', 0):.0%} in words that neither base nor tuning ever read. "
        f"{values['secrets_left']} of {values['planted']} planted secrets left. "
        f"{values['seconds']} s in all.</p>"
    )


def _scores(values: Mapping[str, Any]) -> str:
    names = (
        ("base", "base, untuned"),
        ("weak", "under-trained"),
        ("control", "shuffled control"),
        ("tuned", "tuned"),
    )
    groups = list(values["tuned"]["groups"])
    head = "".join(f"<th>{escape(g)}</th>" for g in groups)
    rows = []
    for key, label in names:
        one = values[key]
        cells = "".join(f"<td class='n'>{one['groups'].get(g, 0):.2f}</td>" for g in groups)
        rows.append(
            f"<tr><td>{label}</td><td class='n'>{one['score']:.2f}</td>"
            f"<td class='n'>{one['low']:.2f}–{one['high']:.2f}</td>{cells}</tr>"
        )
    versus = "".join(
        f"<p>Against {escape(name)}: {row['difference']:+.2f}, exact McNemar p = {row['p']:.1e}.</p>"
        for name, row in values["versus"].items()
    )
    return f"<table><tr><th></th><th>score</th><th>95 %</th>{head}</tr>{''.join(rows)}</table>{versus}"


def curve_svg(losses: Sequence[float], width: int = 640, height: int = 180) -> str:
    """The loss curve as an inline picture."""
    if len(losses) < 2:
        return ""
    high = max(losses)
    points = " ".join(
        f"{i * width / (len(losses) - 1):.1f},{height - y / high * (height - 10):.1f}"
        for i, y in enumerate(losses)
    )
    return (
        f"<svg viewBox='0 0 {width} {height + 20}' role='img' aria-label='training loss'>"
        f"<line x1='0' y1='{height}' x2='{width}' y2='{height}' stroke='#b8c4d0'/>"
        f"<polyline fill='none' stroke='#2b6cb0' stroke-width='2' points='{points}'/>"
        f"<text x='4' y='14' font-size='12'>{high:.2f}</text>"
        f"<text x='{width - 90}' y='{height + 16}' font-size='12'>{len(losses)} steps</text></svg>"
    )


def _dataset(values: Mapping[str, Any]) -> str:
    rows = [(f"{part}: {kind}", n) for part, kinds in values["examples"].items() for kind, n in kinds.items()]
    rows += [(f"dropped: {reason}", n) for reason, n in values["drops"].items()]
    return _table(rows, ("examples", "count"))


def _table(rows: Any, head: tuple[str, str]) -> str:
    body = "".join(
        f"<tr><td>{escape(str(name))}</td><td class='n'>{escape(str(n))}</td></tr>" for name, n in rows
    )
    return f"<table><tr><th>{head[0]}</th><th>{head[1]}</th></tr>{body}</table>"
