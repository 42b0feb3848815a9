"""The specification curve tells what is contradicted from what is not told from noise."""

from manyloss.lab import claims
from manyloss.lab.claims import readings
from manyloss.lab.reports.readings import draw_readings, write_readings
from tests.lab.reports.test_report import Page

OPENS = readings.read_opens(
    "made.toml", b'claims = ["made"]\n[rate]\nopen = "the rate"\nvalues = [1, 2, 3]\n'
)[1]
MARGINS = {"holds": (0.3, 0.1), "unclear": (0.05, 0.2), "fails": (-0.2, 0.1)}


def tried(outcomes):
    """Each reading has a second check, which holds."""
    found = []
    for settings, outcome in zip(readings.chosen(OPENS, None), outcomes, strict=True):
        checks = (
            readings.JudgedCheck("it is better", outcome, *MARGINS[outcome]),
            readings.JudgedCheck("it is so", "holds", 1.0, 0.1),
        )
        found.append(readings.Judged(settings, "unclear", 3, checks))
    return readings.summed_up(OPENS, found)


def test_each_reading_is_drawn_by_what_became_of_its_checks():
    found = tried(["unclear", "fails", "holds"])
    assert [each.outcome for each in found.judged] == ["unclear", "fails", "holds"]
    panel = draw_readings(found)
    assert panel.told == (
        "Margin of the weakest check by reading, in order: −20.0% (contradicted), "
        "+5.0% (not told from noise), +30.0% (holds)."
    )
    for name, symbol in (("contradicted", "x"), ("not told from noise", "diamond-open"), ("holds", "circle")):
        assert f'"name":"{name}"' in panel.figure
        assert f'"symbol":"{symbol}"' in panel.figure


def test_the_page_says_under_how_many_readings_it_is_contradicted(tmp_path):
    claim = claims.claim_named("gradnorm-toy-2")
    words = Page(write_readings(tmp_path, claim, tried(["unclear", "fails", "fails"])).read_text()).words()
    assert "a cross one under which some check fails beyond noise (2 of 3)" in words
    assert "The claim holds under 0 of 3 readings" in words
