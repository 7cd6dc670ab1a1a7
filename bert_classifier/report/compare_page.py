"""A page with runs beside each other: one file that needs no other."""

from __future__ import annotations

from typing import Any

from bert_classifier.report.compare import HEADER, Comparison, Finished, cells, setting_rows

_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runs compared</title>
<style>
:root { color-scheme: light dark; --line: #ccc; --mark: #1f6feb; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; min-width: 3rem; }
svg line { stroke: var(--mark); stroke-width: 3; }
svg circle { fill: var(--mark); }
@media (prefers-color-scheme: dark) { :root { --line: #444; --mark: #6cb6ff; } }
@media print { body { margin: 0; max-width: none; } }
</style>
</head>
<body>
<h1>Runs compared</h1>
<section id="runs">
<table>
<tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}<th></th></tr>
{% for row in rows %}
<tr>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}<td>
{% if row.ends %}
<svg width="200" height="14" role="img" aria-label="interval">
<line x1="{{ row.ends[0] }}" x2="{{ row.ends[1] }}" y1="7" y2="7"/>
<circle cx="{{ row.ends[2] }}" cy="7" r="5"/>
</svg>
{% endif %}
</td></tr>
{% endfor %}
</table>
</section>
<section id="remarks">
{% for remark in remarks %}<p>{{ remark }}</p>
{% endfor %}
</section>
{% if settings %}
<section id="settings">
<h2>Settings that differ</h2>
<table>
<tr><th>setting</th>{% for name in names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for setting in settings %}
<tr>{% for cell in setting %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
</section>
{% endif %}
</body>
</html>
"""
# Of the drawing of an interval, in pixels.
_LEFT, _RIGHT = 8, 192


def as_page(comparison: Comparison) -> str:
    """Return the comparison as HTML; all texts are escaped."""
    import jinja2  # noqa: PLC0415

    environment = jinja2.Environment(autoescape=True)
    return environment.from_string(_TEMPLATE).render(
        header=HEADER,
        names=[row.name for row in comparison.rows],
        rows=[{"cells": cells(row), "ends": _ends(row, comparison)} for row in comparison.rows],
        settings=setting_rows(comparison),
        remarks=comparison.remarks,
    )


def _ends(row: Finished, comparison: Comparison) -> list[str] | None:
    """Return where an interval begins and ends, and its value, on the line of its metric."""
    if row.interval is None or row.value is None:
        return None
    numbers: list[Any] = []
    for other in comparison.rows:
        if other.watched == row.watched and other.interval and other.value is not None:
            numbers += [*other.interval, other.value]
    low, high = min(numbers), max(numbers)
    scale = (_RIGHT - _LEFT) / (high - low) if high > low else 0.0
    return ["%.1f" % (_LEFT + (x - low) * scale) for x in (*row.interval, row.value)]
