"""The page of a sweep: what to take, how to read it, the pictures and all figures, in one file of HTML that needs no other."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from benches.sweep_advice import CLOSE, COLUMNS, Choice
from benches.sweep_cells import OPTIONS, Setting, varying
from benches.sweep_plots import STALL_MS, USE_COLORS
from benches.sweep_rows import Row

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a2530; background: #fff }
body { max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: .2rem }
h2 { font-size: 1.25rem; margin-top: 2.4rem }
p, li { max-width: 52rem }
.conditions { color: #55626e }
.cards { display: flex; flex-wrap: wrap; gap: 1rem }
.card { flex: 1 1 18rem; border: 1px solid #ccd6dd; border-top: 5px solid; border-radius: 6px; padding: .8rem 1rem }
.card h3 { margin: 0 }
.card code { display: block; margin: .5rem 0; font-size: 1rem; font-weight: 600 }
.card p { margin: .3rem 0; font-size: .92rem }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { padding: .22rem .6rem; text-align: right; border-bottom: 1px solid #e4eaee; white-space: nowrap }
thead th { background: #f1f5f7 }
tr.chosen td { background: #fff6d6 }
tr.default td { background: #eef3f6 }
.failed { color: #a61e1e }
"""

_FIGURES = {
    "ssh": (
        "Typing: how long a keystroke takes to come back",
        """36 bytes go out every 50 ms, whether the echo before has come or not, and a service behind the server end echoes them.
Half of the echoes came within p50, 9 of 10 within p90, 99 of 100 within p99. Farther left is better, and marks that lie close
together are a terminal that feels even. The dotted line is the delay of the line itself, there and back, without its jitter.""",
    ),
    "bulk": (
        "Bulk: how much goes, and what it costs",
        """One stream sends as fast as it can. The goodput is what has arrived of its data. The cost is what the line has
carried, both ways and with all headers, for each byte of data, and how many connections a megabyte took. A --buffer T:N lets at
most N payloads pass every T ms (one, if N is 0), so it limits bulk too.""",
    ),
    "video": (
        "A steady stream: does the beat hold, and how late is it",
        f"""A frame of 10,000 bytes leaves the service every 40 ms (2 Mbit/s). Off the beat is by how much the time between two
frames at the program differs from 40 ms: near 0 the picture moves evenly. The delay is from when a frame was due to leave until
all of it has arrived; the dotted line is what the line takes. A stall is a gap of more than {STALL_MS} ms, and a number in red
is the share of such gaps.""",
    ),
    "samples": (
        "The same, one by one",
        """Left: which share of the keystrokes was back after so many ms. Right: the gaps between frames, one after the other; a
curve that stays on 40 ms is perfect. What is advised is drawn beside the defaults and the worst of all.""",
    ),
    "tradeoff": (
        "All in one: what is given for what",
        """Each dot is a setting. Left is better for typing, up is better for bulk, darker is a steadier stream, and a larger
dot costs more bytes on the line. Rings mark what is advised, and the defaults.""",
    ),
}


def make_page(conditions: str, rows: Sequence[Row], choices: Sequence[Choice], pictures: dict[str, bytes]) -> str:
    """The whole of it; `pictures` are PNGs by name."""
    names = varying([row.setting for row in rows])
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>tcsplitter: which setting to take</title><style>{_STYLE}</style></head><body>",
        "<h1>Which setting to take</h1>",
        f'<p class="conditions">{_lines(conditions)}</p>',
        f'<div class="cards">{"".join(_make_card(choice, names) for choice in choices)}</div>',
        _explain(rows, names),
    ]
    for name, png in pictures.items():
        title, text = _FIGURES[name]
        picture = base64.b64encode(png).decode()
        parts.append(f'<h2>{title}</h2><p>{text}</p><img alt="{title}" src="data:image/png;base64,{picture}">')
    parts += [_make_table(rows, choices, names), "</body></html>\n"]
    return "\n".join(parts)


def _lines(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _make_card(choice: Choice, names: Sequence[str]) -> str:
    use = choice.use
    color = USE_COLORS[use.name]
    words = html.escape(choice.row.setting.describe(names) or "the defaults")
    told = html.escape(choice.reason())
    best = html.escape(
        f"The best of all is {choice.best:.3g} {use.unit}. Of those as good as that, this is the one with {use.cost_told}."
    )
    return (
        f'<div class="card" style="border-top-color:{color}"><h3>{use.name}</h3><code>{words}</code>'
        f"<p>{told[0].upper()}{told[1:]}</p><p>{html.escape(best)}</p></div>"
    )


def _explain(rows: Sequence[Row], names: Sequence[str]) -> str:
    same = html.escape(rows[0].setting.describe([name for name in OPTIONS if name not in names]))
    return f"""<h2>How to read this</h2>
<p>Each setting was measured with a real tunnel, both ends started anew for each workload, across a line between two network
namespaces of one machine, and both ends had the same options. All {len(rows)} settings have in common: <code>{same}</code>.</p>
<ul><li><code>--tick</code> is the least time between two reads of a local program: more of it makes fewer, fuller payloads.</li>
<li><code>--tock</code> is how long a payload that is not full waits for more.</li>
<li><code>--buffer T:N</code> is the beat at which what has arrived is given to the local program.</li></ul>
<p>A setting counts as good as the best when its measure is within {CLOSE:.0%} of it, or a millisecond; among those the defaults
are advised, else what costs least. Where measurements were repeated, figures are medians, and thin bars go from the least to the
most; where not, small differences are chance, above all in p99. Another line needs a sweep of its own.</p>"""


def _make_table(rows: Sequence[Row], choices: Sequence[Choice], names: Sequence[str]) -> str:
    groups = list(dict.fromkeys(column.group for column in COLUMNS))
    counts = [sum(column.group == group for column in COLUMNS) for group in groups]
    above = "".join(f'<th colspan="{count}">{html.escape(group)}</th>' for group, count in zip(groups, counts, strict=True))
    heads = _cells("th", [*names, *(column.head for column in COLUMNS), "advised for"])
    lines = []
    for row in rows:
        uses = [choice.use.name for choice in choices if choice.row is row]
        kind = "chosen" if uses else "default" if row.setting == Setting() else "other"
        words = [*(getattr(row.setting, name) for name in names), *(column.show(row) for column in COLUMNS), ", ".join(uses)]
        lines.append(f'<tr class="{kind}">{_cells("td", words)}</tr>')
    return f"""<h2>All figures</h2>
<p>What is advised above is yellow, the defaults are grey.</p>
{_tell_failures(rows, names)}
<div class="scroll"><table>
<thead><tr><th colspan="{len(names)}"></th>{above}<th></th></tr><tr>{heads}</tr></thead>
<tbody>{"".join(lines)}</tbody>
</table></div>"""


def _tell_failures(rows: Sequence[Row], names: Sequence[str]) -> str:
    failed = [f"Failed: {row.setting.describe(names)}: {reason}" for row in rows for reason in row.failed]
    return "".join(f'<p class="failed">{html.escape(each)}</p>' for each in failed)


def _cells(tag: str, words: Sequence[str]) -> str:
    return "".join(f"<{tag}>{html.escape(word)}</{tag}>" for word in words)
