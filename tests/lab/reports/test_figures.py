import json

import numpy as np
import pytest

from manyloss.lab.analysis.results import read_run, read_steps
from manyloss.lab.analysis.table import make_table
from manyloss.lab.reports.figures import LINES, PAIRS, POINTS, make_figures
from manyloss.lab.runs.storage import trial_folder
from tests.lab.reports.test_report import report_of
from tests.lab.run_folders import make_run


def figures_of(folder):
    run = read_run(folder)
    return run, make_figures(run, make_table(run))


def test_curves_are_means_over_seeds(finished_run):
    run, figures = figures_of(finished_run)
    assert [panel.title for panel in figures.validation] == ["left/accuracy", "right/accuracy"]
    assert [panel.title for panel in figures.train] == ["left", "right"]
    line = figures.validation[0].lines[3]
    expected = [trial.epochs[4].validation_metrics["left/accuracy"] for trial in run.of("pcgrad")]
    assert line.x[4] == 5
    assert line.y[4] == pytest.approx(np.mean(expected))
    assert line.low[4] < line.y[4] < line.high[4]


def test_what_was_measured_along_the_way_is_drawn_where_it_was_measured(tmp_path):
    folder = make_run(tmp_path / "run", arms=("equal", "mgda"), seeds=2, epochs=4)
    assert figures_of(folder)[1].along == []
    for seed, size in ((0, 1.0), (1, 3.0)):
        path = trial_folder(folder, "mgda", seed) / "epochs.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        records[1]["along"] = {"logit": size, "share": 0.5}
        records[3]["along"] = {"logit": 3000 * size, "share": 0.0}
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    logit, share = figures_of(folder)[1].along
    (line,) = logit.lines
    assert (line.arm, line.x, line.y) == (1, [2, 4], [2.0, 6000.0])
    assert [logit.logarithmic, share.logarithmic] == [True, False]
    page = report_of(folder)
    assert "Measured along the way" in page
    assert '"type":"log"' in page


def test_traces_average_over_seeds_and_keep_every_step_where_there_are_few(finished_run):
    run, figures = figures_of(finished_run)
    traces = [read_steps(trial, run.losses) for trial in run.of("gradnorm")]
    panel = figures.weights[0]
    assert panel.title == "gradnorm"
    assert panel.x == traces[0].steps.tolist()
    np.testing.assert_allclose(panel.values[1], np.mean([trace.weights[:, 1] for trace in traces], axis=0))


def test_constant_weights_are_words(finished_run):
    _, figures = figures_of(finished_run)
    assert figures.constant_weights == [("equal", "1 for every loss")]
    titles = [panel.title for panel in figures.weights]
    assert "equal" not in titles
    assert "pcgrad: projection coefficients" in titles


def test_two_losses_share_one_map_of_conflict_with_a_row_per_method(finished_run):
    run, figures = figures_of(finished_run)
    assert len(figures.conflict) == 1
    assert figures.conflict[0].rows == run.arms
    cosines = np.stack([read_steps(trial, run.losses).cosines for trial in run.of("mgda")])
    np.testing.assert_allclose(figures.conflict[0].values[4], cosines.mean(axis=0)[:, 0], atol=1e-6)
    summary = figures.conflict_summary[4]
    assert summary.mean == pytest.approx(cosines.mean(), rel=1e-5)
    assert summary.negative == pytest.approx((cosines < 0).mean())


def test_many_losses_keep_the_strongest_conflict_and_the_mean(wide_run):
    run, figures = figures_of(wide_run)
    count = len(run.losses)
    assert count > LINES
    panel = figures.conflict[0]
    assert panel.rows[0] == f"mean of all {count * (count - 1) // 2} pairs"
    assert len(panel.rows) == PAIRS + 1
    assert figures.pairs_left_out == count * (count - 1) // 2 - PAIRS
    means = [np.mean(values) for values in panel.values[1:]]
    assert max(means) < np.mean(panel.values[0])
    assert figures.validation[0].title == "mean over the metrics"


def test_long_runs_are_thinned(tmp_path):
    folder = make_run(
        tmp_path / "run", arms=["equal", "mgda"], seeds=2, epochs=300, steps_per_epoch=3, record_every=1
    )
    _, figures = figures_of(folder)
    assert len(figures.weights[0].x) == len(figures.weights[0].values[0]) == POINTS
    line = figures.validation[0].lines[0]
    assert len(line.x) == POINTS
    assert (line.x[0], line.x[-1]) == (1, 300)


def test_a_method_that_never_finished_shows_how_far_it_came(mixed_run):
    run, figures = figures_of(mixed_run)
    lines = {run.arms[line.arm]: line for line in figures.validation[0].lines}
    assert max(lines["gradnorm"].x) == 6
    assert max(lines["mgda"].x) == 20
    assert "gradnorm" not in [run.arms[row.arm] for row in figures.changes]


def test_numbers_that_are_missing_leave_gaps(tmp_path):
    folder = make_run(tmp_path / "run", arms=["equal", "mgda"], seeds=1, epochs=2)
    trial = trial_folder(folder, "mgda", 0)
    epochs = [json.loads(line) for line in (trial / "epochs.jsonl").read_text().splitlines()]
    epochs[0]["train"]["left"] = None
    (trial / "epochs.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    (trial / "steps.jsonl").unlink()
    _, figures = figures_of(folder)
    assert [line.x for line in figures.train[0].lines] == [[1, 2], [2]]
    assert figures.weights == []
    assert figures.conflict[0].rows == ("equal",)
