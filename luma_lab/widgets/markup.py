"""HTML that the widgets show: every value that comes from data is escaped here."""

from html import escape

STYLE = """
:host { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  font-size: 14px; color: #1f2733; }
h1, h2, h3, p { margin: 0; }
h2 { font-size: 17px; font-weight: 650; letter-spacing: -0.01em; }
h3 { font-size: 12px; font-weight: 650; letter-spacing: 0.06em; text-transform: uppercase;
  color: #64748b; }
p.hint { color: #64748b; font-size: 13px; line-height: 1.45; margin-top: 3px; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12.5px;
  background: #eef2f7; border-radius: 4px; padding: 1px 5px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(max(120px, 22%), 1fr));
  gap: 10px; }
.tile { background: #f6f8fb; border: 1px solid #e6ebf2; border-radius: 10px; padding: 10px 12px; }
.tile b { display: block; font-size: 20px; font-weight: 650; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile b small { font-size: 12px; font-weight: 500; color: #64748b; margin-left: 3px; }
.tile span { color: #64748b; font-size: 12px; }
.tile.lead { background: #fff4ec; border-color: #fbd9c0; }
.tile.lead b { color: #c2500a; }
.scroll { overflow: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { text-align: left; font-weight: 600; font-size: 12px; color: #64748b;
  border-bottom: 1px solid #dde4ee; padding: 6px 18px 6px 0; white-space: nowrap; }
td { border-bottom: 1px solid #eef2f7; padding: 7px 18px 7px 0; vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
td.name { font-weight: 600; white-space: nowrap; }
td.mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 12.5px;
  white-space: nowrap; }
.note { border-radius: 8px; padding: 9px 12px; font-size: 13px; line-height: 1.45; }
.note.info { background: #eef4ff; color: #1d4079; }
.note.good { background: #ebf8f0; color: #14532d; }
.note.bad { background: #fdeeee; color: #8f1d1d; }
.bar { height: 8px; border-radius: 4px; background: #e6ebf2; overflow: hidden; }
.bar i { display: block; height: 100%; background: #2f6fde; border-radius: 4px;
  transition: width 0.15s linear; }
.bar + span { display: block; margin-top: 5px; font-size: 12px; color: #64748b;
  font-variant-numeric: tabular-nums; }
.empty { border: 1px dashed #cbd5e1; border-radius: 10px; padding: 18px 20px; color: #475569;
  line-height: 1.7; }
pre { margin: 6px 0 0; font-family: ui-monospace, "DejaVu Sans Mono", monospace;
  font-size: 12.5px; background: #f1f5f9; border-radius: 8px; padding: 10px 12px;
  white-space: pre-wrap; }
"""


def heading(title, hint=""):
    """Return a section title with a quieter sentence under it."""
    below = f'<p class="hint">{escape(hint)}</p>' if hint else ""
    return f"<h2>{escape(title)}</h2>{below}"


def label(text):
    """Return a small capital label above a group of controls."""
    return f"<h3>{escape(text)}</h3>"


def hint(text):
    """Return a quiet sentence, or nothing for empty text."""
    return f'<p class="hint">{escape(text)}</p>' if text else ""


def note(text, kind="info"):
    """Return a coloured message ("info", "good" or "bad"), or nothing for empty text."""
    return f'<div class="note {kind}" role="status">{escape(text)}</div>' if text else ""


def bar(fraction, text):
    """Return a progress bar filled to `fraction` (0 to 1) with `text` under it."""
    percent = 100 * min(1.0, max(0.0, float(fraction)))
    return (
        f'<div class="bar" role="progressbar" aria-valuenow="{percent:.0f}" aria-valuemin="0" '
        f'aria-valuemax="100"><i style="width:{percent:.1f}%"></i></div>'
        f"<span>{escape(text)}</span>"
    )


def tiles(readings, *, lead=False):
    """Return number tiles from (label, value, unit) triples; the first may lead in colour."""
    cells = []
    for position, (name, value, unit) in enumerate(readings):
        kind = "tile lead" if lead and position == 0 else "tile"
        small = f"<small>{escape(unit)}</small>" if unit else ""
        cells.append(
            f'<div class="{kind}"><b>{escape(value)}{small}</b><span>{escape(name)}</span></div>'
        )
    return f'<div class="tiles">{"".join(cells)}</div>'


def table(columns, rows):
    """Return a table.

    Parameters
    ----------
    columns : list of (title, kind), kind one of "text", "name", "mono", "number"
    rows : iterable of tuples of str, one for each column
    """
    head = "".join(f'<th class="{kind}">{escape(title)}</th>' for title, kind in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{escape(cell)}</td>'
            for (_, kind), cell in zip(columns, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def count(number):
    """Write a whole number with thin spaces between thousands.

    >>> count(1234567)
    '1 234 567'
    """
    return f"{int(number):,}".replace(",", "\u2009")


def size(number):
    """Write a number of bytes as (value, unit).

    >>> size(3 * 2**20)
    ('3.0', 'MiB')
    """
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            return (f"{amount:.0f}" if unit == "B" else f"{amount:.1f}"), unit
        amount /= 1024


def figures(number, digits=3):
    """Write a measured number with `digits` significant figures, plainly.

    >>> figures(0.04217), figures(1234.5)
    ('0.0422', '1230')
    """
    if number == 0:
        return "0"
    rounded = float(f"{number:.{digits}g}")
    return f"{rounded:.10f}".rstrip("0").rstrip(".")
