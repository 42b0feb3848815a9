"""Sigma in windows and histograms of cosines, with known answers and on a page."""

import numpy as np
import pytest

from manyloss.lab.analysis.results import read_run
from manyloss.lab.reports.looks import styles_of
from manyloss.lab.reports.spread import BINS, WINDOW, draw_spread, shares, sigma_in_windows
from tests.lab.reports.test_report import Page, report_of
from tests.lab.run_folders import make_run


def test_sigma_is_of_windows_of_what_was_measured():
    cosines = np.concatenate([np.tile([0.1, 0.3], WINDOW // 2), np.full(WINDOW, 0.5), [0.9]])
    cosines = np.insert(cosines, 3, np.nan)
    steps = np.arange(1, len(cosines) + 1)
    last, sigma = sigma_in_windows(steps, cosines)
    assert last.tolist() == [WINDOW + 1, 2 * WINDOW + 1]
    assert sigma == pytest.approx([0.1 * np.sqrt(WINDOW / (WINDOW - 1)), 0.0])


def test_shares_cover_minus_one_to_one():
    found = shares(np.array([-1.0, 1.0, 0.01, np.nan]))
    assert found[0] == found[-1] == found[BINS // 2] == pytest.approx(1 / 3)


def test_every_pair_has_both_panels_and_few_records_none(tmp_path):
    folder = make_run(tmp_path / "run", arms=("equal", "mgda"), seeds=2, epochs=20)
    run = read_run(folder)
    windows, histogram = draw_spread(run, styles_of(run.arms, "equal"))
    assert windows.title == "sigma of left|right"
    assert "equal 0." in windows.told
    assert histogram.title == "how often which cosine of left|right"
    page = Page(report_of(folder))
    assert "How much the cosine varies" in page.words()
    short = read_run(make_run(tmp_path / "short", arms=("equal",), seeds=1, epochs=2))
    assert draw_spread(short, styles_of(short.arms)) == []
