"""The report: report.html, one file that needs no network, made from a run folder. It runs nothing.

First the answer in words, then the table, then the figures, then how all of it was made. Words and
tables are plain HTML and read without JavaScript; the figures are drawn by plotly.js, which is embedded.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from manyloss.lab.analysis.results import RunRecord, read_run
from manyloss.lab.analysis.statistics import baseline_words, percent
from manyloss.lab.analysis.table import (
    MARKS,
    Row,
    Table,
    change_texts,
    column_titles,
    make_table,
    metric_texts,
    p_cell,
    rank_text,
    seeds_text,
    time_text,
)
from manyloss.lab.reports import under_attack
from manyloss.lab.reports.figures import LINES, Curves, Figures, Line, Traces, make_figures
from manyloss.lab.runs import storage

#: With more metrics than this, they get a table of their own with one row each.
METRIC_COLUMNS = 8
#: Panels of one family that are shown at once; the others wait behind a click.
OPEN_PANELS = 8
#: With more sentences than this, they wait behind a click too: the verdict above them names every method.
OPEN_SENTENCES = 10

HUES = 7
_DASHES = {"solid": "", "dash": "6 3", "dot": "1.5 2.5", "dashdot": "6 2.5 1.5 2.5"}
_SYMBOLS = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "square": "M-3.5,-3.5h7v7h-7z",
    "diamond": "M0,-4.7L4.7,0L0,4.7L-4.7,0z",
    "triangle-up": "M0,-4.5L4.5,3.5H-4.5z",
    "cross": "M-1.4,-4.3h2.8v2.9h2.9v2.8h-2.9v2.9h-2.8v-2.9h-2.9v-2.8h2.9z",
    "triangle-down": "M0,4.5L4.5,-3.5H-4.5z",
    "star": "M0,-5L1.3,-1.6L4.8,-1.5L2,0.6L3,4L0,2L-3,4L-2,0.6L-4.8,-1.5L-1.3,-1.6z",
    "x": "M-2,-4L0,-2L2,-4L4,-2L2,0L4,2L2,4L0,2L-2,4L-4,2L-2,0L-4,-2z",
    "hexagon": "M0,-4.5L3.9,-2.2V2.2L0,4.5L-3.9,2.2V-2.2z",
}

#: Nothing may be loaded from anywhere: the browser enforces that the file is self-contained.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_report(folder: Path, out: Path | None = None, at_least: float = 0.0) -> Path:
    """Write ``report.html`` into the run folder, or the file ``out``, and return its path.

    Raises:
        LabError: the folder is no run folder or damaged, or the report cannot be written.

    """
    folder = Path(folder)
    run = read_run(folder)
    page = render_report(run, make_table(run, at_least))
    path = folder / "report.html" if out is None else out
    storage.write_bytes(path, page.encode("utf-8"))
    return path


def render_report(run: RunRecord, table: Table) -> str:
    """The whole page."""
    figures = make_figures(run, table)
    asset = files("manyloss.lab.reports") / "templates"
    sections = [
        _answer(table),
        _tables(run, table),
        _changes(table, figures),
        _learning_curves(run, figures),
        _weights(run, figures),
        _conflict(run, figures),
        _norms(run, figures),
        under_attack.section(run, _arm_styles(run), _swatch),
        _times(table, figures),
        _provenance(run),
    ]
    title = escape(f"{run.problem}: {len(run.arms)} methods compared")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            f"<title>{title}</title>",
            f"<style>{(asset / 'page.css').read_text(encoding='utf-8')}</style>",
            "</head>",
            "<body>",
            _header(run, table),
            "<main>",
            '<noscript><p class="note">The figures need JavaScript; words and tables do not.</p></noscript>',
            *(section for section in sections if section),
            "</main>",
            "<footer><p class='note'>Made by manyloss from the files of the run folder. "
            "This page loads nothing from anywhere.</p></footer>",
            f'<script type="application/json" id="data">{_data(run, table, figures)}</script>',
            f"<script>{get_plotlyjs()}</script>",
            f"<script>{(asset / 'page.js').read_text(encoding='utf-8')}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


# -- data for the figures ----------------------------------------------------------------------------------


def style_of(number: int, *, baseline: bool = False) -> dict[str, Any]:
    """Hue, dash and marker of a line: neighbours share none, and the first 28 differ in hue or dash."""
    if baseline:
        return {"hue": -1, "dash": "solid", "symbol": "circle"}
    dashes, symbols = list(_DASHES), list(_SYMBOLS)
    return {
        "hue": number % HUES,
        "dash": dashes[number % len(dashes)],
        "symbol": symbols[number % len(symbols)],
    }


def _arm_styles(run: RunRecord) -> list[dict[str, Any]]:
    others = [arm for arm in run.arms if arm != run.baseline]
    return [
        {
            "name": arm,
            **(
                style_of(0, baseline=True)
                if arm == run.baseline
                # The baseline is a solid line with circles, so the others start behind these.
                else style_of(others.index(arm)) | {"symbol": list(_SYMBOLS)[1 + others.index(arm) % 8]}
            ),
        }
        for arm in run.arms
    ]


def _loss_styles(run: RunRecord) -> list[dict[str, Any]]:
    return [{"name": name, **style_of(index)} for index, name in enumerate(run.losses)]


def _data(run: RunRecord, table: Table, figures: Figures) -> str:
    """The figures as JSON that can stand inside a script element."""
    against = baseline_words(table.baseline)
    value = {
        "arms": _arm_styles(run),
        "losses": _loss_styles(run),
        "lines_up_to": LINES,
        "changes": [
            {
                "rows": figures.changes,
                "reference": 0,
                "title": f"mean relative change against {escape(against)}",
                "format": "+.2%",
                "ticks": "~%",
            }
        ],
        "times": [
            {
                "rows": figures.times,
                "reference": 1,
                "title": f"step time over {escape(against)}",
                "format": ".2f",
                "ticks": "~g",
            }
        ],
        "validation": figures.validation,
        "train": figures.train,
        "weights": figures.weights,
        "norms": figures.norms,
        "conflict": figures.conflict,
    }
    text = json.dumps(_compact(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _compact(value: Any) -> Any:
    """JSON values with four significant digits, and null for what is not finite."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        rounded = float(f"{value:.4g}")
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e9 else rounded
    if isinstance(value, Mapping):
        return {str(key): _compact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_compact(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _compact(getattr(value, each.name)) for each in fields(value)}
    return value


# -- parts of the page -------------------------------------------------------------------------------------


def _header(run: RunRecord, table: Table) -> str:
    facts = [
        _count(len(run.arms), "method"),
        _count(len(run.seeds), "seed"),
        _count(run.epochs, "epoch"),
        _count(len(run.losses), "loss", "losses"),
        f"compared with {baseline_words(table.baseline)}",
    ]
    when = _date(run.created)
    if when:
        facts.append(when)
    return f'<header><h1>{escape(run.problem)}</h1><p class="facts">{escape(" · ".join(facts))}</p></header>'


def _answer(table: Table) -> str:
    items = []
    for row in table.rows:
        if row.sentence in table.sentences:
            sign = MARKS[row.comparison.outcome][0] or "·"
            items.append(
                f'<li class="{_css(row)}"><span class="sign" aria-hidden="true">{sign}</span>'
                f"{_words(row.sentence)}</li>"
            )
    sentences = f'<ul class="sentences">{"".join(items)}</ul>'
    if len(items) > OPEN_SENTENCES:
        sentences = f"<details><summary>All {len(items)} methods in words</summary>{sentences}</details>"
    return (
        '<section aria-labelledby="answer"><h2 id="answer">The answer</h2>'
        f'<p class="verdict">{_words(table.verdict)}</p>'
        f"{sentences}</section>"
    )


def _words(text: str) -> str:
    """A sentence in which a p-value does not break over two lines."""
    return escape(text).replace("p = ", "p&nbsp;=&nbsp;").replace("p &lt; ", "p&nbsp;&lt;&nbsp;")


def _css(row: Row) -> str:
    return row.comparison.outcome.replace(" ", "-")


def _tables(run: RunRecord, table: Table) -> str:
    titles = column_titles(table.metrics)
    cells = metric_texts(table)
    changes = change_texts(table)
    inside = len(table.metrics) <= METRIC_COLUMNS
    heads = [
        "<th scope='col'>method</th>",
        f"<th scope='col'>change<span class='unit'>vs {escape(table.baseline)}</span></th>",
        "<th scope='col'>p<span class='unit'>corrected</span></th>",
        "<th scope='col'>mean rank</th>",
        "<th scope='col'>step time</th>",
        "<th scope='col'>seeds</th>",
    ]
    heads[2:2] = [f"<th scope='col'>{escape(title)}</th>" for title in table.word_columns]
    if inside:
        heads += [_metric_head(titles[metric.name], metric.higher_is_better) for metric in table.metrics]
    body = []
    for row in table.rows:
        sign, word = MARKS[row.comparison.outcome]
        change = f"{sign} {changes[row.arm]}".strip()
        if row.comparison.outcome == "baseline":
            change = "baseline"
        columns = [
            f"<td class='{_css(row)}' title='{escape(word)}'>{escape(change)}</td>",
            f"<td>{escape(p_cell(row.comparison))}</td>",
            f"<td>{rank_text(row.comparison)}</td>",
            f"<td>{time_text(row.comparison)}</td>",
            f"<td>{seeds_text(row)}</td>",
        ]
        columns[1:1] = [f"<td>{escape(row.words.get(title, '–'))}</td>" for title in table.word_columns]
        if inside:
            columns += [f"<td>{escape(cells[metric.name][row.arm])}</td>" for metric in table.metrics]
        kind = " class='baseline'" if row.arm == table.baseline else ""
        body.append(f"<tr{kind}><th scope='row'>{escape(row.arm)}</th>{''.join(columns)}</tr>")
    against = escape(baseline_words(table.baseline))
    caption = " ".join(
        [
            f"{table.of_what}, mean ± 95% interval over seeds, {table.tested_at}.",
            f"Change: mean over the metrics of the relative change against {against}, paired by seed,",
            "signed so that + is better; ▲ better, ▼ worse, ≈ within noise, = no difference, ? not tested.",
            "p: two-sided paired t-test with Holm's correction for the number of methods.",
            f"Mean rank: over the metrics, 1 is best. Step time: median, over that of {against}.",
        ]
    )
    parts = [
        '<section aria-labelledby="table"><h2 id="table">The table</h2>',
        _scrolling("Results", heads, body, caption),
    ]
    if not inside:
        heads = ["<th scope='col'>test metric</th>"]
        heads += [f"<th scope='col'>{escape(row.arm)}</th>" for row in table.rows]
        body = []
        for metric in table.metrics:
            columns = [f"<td>{escape(cells[metric.name][row.arm])}</td>" for row in table.rows]
            arrow = "↑" if metric.higher_is_better else "↓"
            body.append(
                f"<tr><th scope='row'>{escape(titles[metric.name])} {arrow}</th>{''.join(columns)}</tr>"
            )
        for title in table.word_columns:  # a number that needs a word is not shown without it
            columns = [f"<td>{escape(row.words.get(title, '–'))}</td>" for row in table.rows]
            body.append(f"<tr><th scope='row'>{escape(title)}</th>{''.join(columns)}</tr>")
        shown = " open" if table.word_columns else ""
        parts.append(
            f"<details{shown}><summary>All {len(table.metrics)} metrics</summary>"
            + _scrolling("All metrics", heads, body, "Test set, mean ± 95% interval over seeds.")
            + "</details>"
        )
    if table.remarks:
        remarks = "".join(f"<li>{escape(remark)}</li>" for remark in table.remarks)
        parts.append(f'<ul class="sentences">{remarks}</ul>')
    derived = [metric.name for metric in run.metrics if metric.derived]
    if derived:
        parts.append(
            f'<p class="note">Computed from the other metrics, shown but not counted in change and rank: '
            f"{escape(', '.join(derived))}.</p>"
        )
    partial = [row.arm for row in table.rows if 0 < len(row.comparison.covered) < len(_counted(table))]
    if partial:
        parts.append(
            f'<p class="note">Trained on some of the losses only, so their change is over the metrics that '
            f"they have: {escape(', '.join(partial))}.</p>"
        )
    return "".join(parts) + "</section>"


def _counted(table: Table) -> list[str]:
    return [metric.name for metric in table.metrics if not metric.derived]


def _metric_head(title: str, higher_is_better: bool) -> str:
    unit = "higher is better ↑" if higher_is_better else "lower is better ↓"
    return f"<th scope='col'>{escape(title)}<span class='unit'>{unit}</span></th>"


def _scrolling(label: str, heads: Sequence[str], body: Sequence[str], caption: str) -> str:
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0"><table>'
        f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="note">{caption}</p>'
    )


def _changes(table: Table, figures: Figures) -> str:
    if not figures.changes:
        return ""
    against = baseline_words(table.baseline)
    told = "; ".join(
        f"{table.rows[row.arm].arm} {percent(row.mid)}"
        + ("" if row.low is None or row.high is None else f" ({percent(row.low)} to {percent(row.high)})")
        for row in figures.changes
    )
    return (
        '<section aria-labelledby="changes"><h2 id="changes">Change against the baseline</h2>'
        f'<p class="lead">Mean relative change against {escape(against)}, with its 95% interval; each tick '
        "above it is one seed. Right of the dotted line is better.</p>"
        + _figure("changes", 0, None, None, f"Mean relative change against {against}: {told}.", wide=True)
        + "</section>"
    )


def _learning_curves(run: RunRecord, figures: Figures) -> str:
    if not figures.validation and not figures.train:
        return '<section><h2>Learning curves</h2><p class="lead">No epoch is finished yet.</p></section>'
    families = []
    for kind, title, panels in (
        ("validation", "Validation metrics", figures.validation),
        ("train", "Training losses", figures.train),
    ):
        shown = [
            _figure(kind, index, panel.title, panel.note, _told_curves(run, panel))
            for index, panel in enumerate(panels)
        ]
        families.append(_panels(shown, f"{title.lower()}"))
    alone = [arm for arm in run.arms if not run.finished(arm) and any(t.epochs for t in run.of(arm))]
    also = (
        f" No trial of {escape(', '.join(alone))} finished: its curves are what the trials reached."
        if alone
        else ""
    )
    lead = " ".join(
        [
            "Mean over the seeds that finished, with the 95% interval as a band, cut off where it is much",
            "wider than the curves. Click a method to hide it or show it in every panel; drag to zoom,",
            "double-click to zoom out.",
        ]
    )
    return (
        '<section aria-labelledby="curves"><h2 id="curves">Learning curves</h2>'
        f'<p class="lead">{lead}{also}</p>'
        + _legend("arm", "Methods", _arm_styles(run))
        + '<h3 class="family">Validation metrics</h3>'
        + families[0]
        + '<h3 class="family">Training losses</h3>'
        + families[1]
        + "</section>"
    )


def _weights(run: RunRecord, figures: Figures) -> str:
    constant = ""
    if figures.constant_weights:
        told = "; ".join(f"{arm} ({values})" for arm, values in figures.constant_weights)
        constant = f'<p class="note">Weights that never change: {escape(told)}.</p>'
    if not figures.weights:
        return (
            f'<section><h2>Loss weights over time</h2><p class="lead">No method changed its weights '
            f"during training.</p>{constant}</section>"
            if constant
            else ""
        )
    return (
        '<section aria-labelledby="weights"><h2 id="weights">Loss weights over time</h2>'
        f'<p class="lead">What each method gave each loss, mean over seeds. '
        f"{_how_drawn(run)}</p>{_loss_legend(run)}"
        + _panels([_trace_figure("weights", i, panel) for i, panel in enumerate(figures.weights)], "methods")
        + f"{constant}</section>"
    )


def _norms(run: RunRecord, figures: Figures) -> str:
    if not figures.norms:
        return ""
    return (
        '<section aria-labelledby="norms"><h2 id="norms">Gradient norms over time</h2>'
        f'<p class="lead">Length of each loss\'s own gradient in the shared part, before any weighting, on a '
        f"logarithmic scale, mean over seeds. {_how_drawn(run)}</p>{_loss_legend(run)}"
        + _panels([_trace_figure("norms", i, panel) for i, panel in enumerate(figures.norms)], "methods")
        + "</section>"
    )


def _conflict(run: RunRecord, figures: Figures) -> str:
    if not figures.conflict:
        if len(run.losses) < 2:
            return ""
        missing = "No pairwise cosines were recorded."
        return f'<section><h2>Conflict over time</h2><p class="lead">{missing}</p></section>'
    left_out = (
        f" Shown are the {len(figures.conflict[0].rows) - 1} pairs with the strongest conflict and the mean; "
        f"{figures.pairs_left_out} other pairs are left out."
        if figures.pairs_left_out
        else ""
    )
    rows = [
        f"<tr><th scope='row'>{escape(row.arm)}</th><td>{_cosine(row.mean)}</td>"
        f"<td>{100 * row.negative:.0f}%</td>"
        f"<td>{escape(row.lowest_pair)} ({_cosine(row.lowest)})</td></tr>"
        for row in figures.conflict_summary
    ]
    heads = [
        f"<th scope='col'>{title}</th>"
        for title in ("method", "mean cosine", "steps in conflict", "strongest conflict")
    ]
    single = figures.conflict[0].arm is None
    maps = [
        _figure("conflict", i, panel.title, None, _told_traces("Cosines", panel), wide=single)
        for i, panel in enumerate(figures.conflict)
    ]
    return (
        '<section aria-labelledby="conflict"><h2 id="conflict">Conflict over time</h2>'
        '<p class="lead">Cosine between the gradients of two losses in the shared part, mean over seeds. '
        f"Below 0 they pull against each other.{escape(left_out)}</p>"
        '<p class="scale"><span>−1 conflict</span><i></i><span>+1 agreement</span></p>'
        + (maps[0] if single else _panels(maps, "methods"))
        + "<details><summary>Conflict in numbers</summary>"
        + _scrolling("Conflict in numbers", heads, rows, "Over all pairs, recorded steps and finished seeds.")
        + "</details></section>"
    )


def _times(table: Table, figures: Figures) -> str:
    if not figures.times:
        return ""
    told = "; ".join(f"{table.rows[row.arm].arm} {row.mid:.2f} times" for row in figures.times)
    against = baseline_words(table.baseline)
    return (
        '<section aria-labelledby="times"><h2 id="times">Step time</h2>'
        f'<p class="lead">Median time of a training step over that of {escape(against)}; each tick is one '
        "seed. Trials that ran side by side share the machine, so small differences mean little.</p>"
        + _figure("times", 0, None, None, f"Step time over {against}: {told}.", wide=True)
        + "</section>"
    )


def _provenance(run: RunRecord) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    environment = dict(run.environment)
    machine: dict[str, Any] = {
        key: environment.pop(key) for key in ("platform", "processor", "cores", "jobs") if key in environment
    }
    threads = environment.pop("threads_per_trial", None)
    if threads is not None:
        machine["threads per trial"] = threads
    commits = environment.pop("commits", [])
    pairs = [
        ("Problem", escape(run.problem)),
        ("Started", escape(_date(run.created) or "not recorded")),
        ("Report made", escape(_date(now))),
        ("Seeds", escape(", ".join(map(str, run.seeds)))),
        ("Epochs", str(run.epochs)),
        (
            "Epoch chosen",
            "the best on the validation split, for every trial by itself; the test split was read once, "
            "at that epoch",
        ),
        (
            "Fairness",
            "for each seed all methods start from the same weights and see the data in the same order "
            "(methods that change the model itself excepted)",
        ),
        ("Versions", _listing(environment)),
        ("Commit", escape(", ".join(commits))) if commits else ("", ""),
        ("Machine", _listing(machine)),
        ("Settings", _listing(run.settings)),
        ("Methods", _methods(run)),
        (
            "Statistics",
            "intervals: t-distribution over seeds; tests: two-sided paired t-test on the mean relative "
            "change, Holm's correction over the methods, 5% level",
        ),
    ]
    items = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in pairs if name and text)
    command = f"<pre><code>{escape(shlex.join(run.command))}</code></pre>" if run.command else ""
    heads = [
        f"<th scope='col'>{title}</th>"
        for title in ("method", "seed", "status", "epoch chosen", "epochs run", "seconds", "reason")
    ]
    rows = [
        f"<tr><th scope='row'>{escape(trial.arm)}</th><td>{trial.seed}</td><td>{trial.status}</td>"
        f"<td>{'–' if trial.best_epoch is None else trial.best_epoch}</td>"
        f"<td>{trial.epochs[-1].epoch if trial.epochs else 0}</td>"
        f"<td>{'–' if trial.seconds is None else f'{trial.seconds:.1f}'}</td>"
        f"<td class='words'>{escape(trial.reason or '')}</td></tr>"
        for trial in run.trials
    ]
    return (
        '<section aria-labelledby="made"><h2 id="made">How this was made</h2>'
        f"{command}<dl>{items}</dl>"
        f"<details><summary>All {len(run.trials)} trials</summary>"
        + _scrolling("Trials", heads, rows, "Times are of training, without the final test.")
        + "</details></section>"
    )


# -- small parts -------------------------------------------------------------------------------------------


def _figure(
    kind: str, index: int, title: str | None, note: str | None, told: str, *, wide: bool = False
) -> str:
    caption = f"<h3>{escape(title)}</h3>" if title else ""
    caption += f"<span>{escape(note)}</span>" if note else ""
    head = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f"<figure{' class=wide' if wide else ''}>{head}"
        f'<div class="plot" data-kind="{kind}" data-index="{index}" role="img" aria-label="{escape(told)}">'
        "</div></figure>"
    )


def _trace_figure(kind: str, index: int, panel: Traces) -> str:
    return _figure(
        kind, index, panel.title, None, _told_traces("Weights" if kind == "weights" else "Norms", panel)
    )


def _panels(figures: Sequence[str], rest: str) -> str:
    few = " few" if len(figures) <= 4 else ""
    first = f'<div class="panels{few}">{"".join(figures[:OPEN_PANELS])}</div>'
    more = figures[OPEN_PANELS:]
    if not more:
        return first
    return (
        f"{first}<details><summary>{len(more)} more {escape(rest)}</summary>"
        f'<div class="panels">{"".join(more)}</div></details>'
    )


def _legend(of: str, label: str, styles: Sequence[Mapping[str, Any]]) -> str:
    buttons = [
        f'<button type="button" data-number="{number}" aria-pressed="true" title="{escape(style["name"])}">'
        f"{_swatch(style)}<span>{escape(style['name'])}</span></button>"
        for number, style in enumerate(styles)
    ]
    everything = '<button type="button" class="all">all on / off</button>' if len(styles) > 3 else ""
    return (
        f'<div class="legend" data-of="{of}" role="group" aria-label="{label}">'
        f"{''.join(buttons)}{everything}</div>"
    )


def _swatch(style: Mapping[str, Any]) -> str:
    colour = "var(--ink)" if style["hue"] < 0 else f"var(--hue-{style['hue']})"
    dash = _DASHES[style["dash"]]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        '<svg width="34" height="12" viewBox="-17 -6 34 12" aria-hidden="true">'
        f'<path d="M-16,0H16" stroke="{colour}" stroke-width="2"{dashes}/>'
        f'<path d="{_SYMBOLS[style["symbol"]]}" fill="{colour}"/></svg>'
    )


def _loss_legend(run: RunRecord) -> str:
    return _legend("loss", "Losses", _loss_styles(run)) if len(run.losses) <= LINES else ""


def _how_drawn(run: RunRecord) -> str:
    if len(run.losses) <= LINES:
        return "Click a loss to hide it or show it."
    return f"One row per loss, {len(run.losses)} in all; each panel has its own scale."


def _told_curves(run: RunRecord, panel: Curves) -> str:
    def last(line: Line) -> str:
        return f"{run.arms[line.arm]} {_compact(line.y[-1])}"

    told = ", ".join(last(line) for line in panel.lines)
    return f"{panel.title} ({panel.note}) by epoch. Last values: {told}."


def _told_traces(quantity: str, panel: Traces) -> str:
    def last(values: Sequence[float | None]) -> str:
        present = [value for value in values if value is not None and math.isfinite(value)]
        return f"{present[-1]:.2g}" if present else "none"

    told = ", ".join(
        f"{name} {last(values)}" for name, values in list(zip(panel.rows, panel.values, strict=True))[:LINES]
    )
    return f"{quantity} of {panel.title} by step. Last values: {told}."


def _methods(run: RunRecord) -> str:
    items = [
        f"<li><b>{escape(arm)}</b>: {escape(run.summaries[arm])}</li>"
        for arm in run.arms
        if run.summaries.get(arm)
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _cosine(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _listing(values: Mapping[str, Any]) -> str:
    """A list of names and values; lists and mappings inside become lists inside."""
    items = [
        f"<li>{escape(str(key).replace('_', ' '))}: {_said(value)}</li>"
        for key, value in values.items()
        if value not in (None, {}, [])
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return _listing(value) or "none"
    if isinstance(value, list | tuple):
        return f"<ul>{''.join(f'<li>{_said(item)}</li>' for item in value)}</ul>"
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _date(text: str) -> str:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.day} {when:%B %Y, %H:%M}" + (f" {when:%Z}" if when.tzinfo else "")
