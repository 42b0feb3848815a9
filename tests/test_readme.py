"""What the README promises a newcomer: the file it shows is the one that runs."""

import re
import sys
from pathlib import Path

import pytest

from manyloss import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")


def test_the_example_is_twenty_lines_and_changes_one():
    first = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    lines = [line for line in first.splitlines() if line.strip()]
    assert len(lines) <= 22
    assert sum("multi.backward" in line for line in lines) == 1


def test_the_problem_shown_is_the_file():
    shown = QUICKSTART.partition("<!-- problem:start -->\n```python\n")[2].partition(
        "```\n<!-- problem:end -->"
    )[0]
    assert shown == (ROOT / "examples" / "my_problem.py").read_text(encoding="utf-8")
    written = shown.partition("class ")[2]
    assert len([line for line in written.splitlines() if line.strip()]) <= 30


@pytest.mark.parametrize("name", ["my_problem.py", "unlike_scales.py"])
def test_the_problem_shown_is_compared(name, monkeypatch, capsys, tmp_path):
    (tmp_path / name).write_text((ROOT / "examples" / name).read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    options = ["--methods", "equal,cosreg", "--seeds", "1", "--epochs", "1", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", ["manyloss", "compare", name, *options])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code, capsys.readouterr()
    printed = capsys.readouterr().out
    assert "equal" in printed
    assert "cosreg" in printed
    (report,) = tmp_path.rglob("report.html")
    assert report.stat().st_size > 1000


@pytest.mark.parametrize("target", ["demo", "test", "check", "docs", "site", "bench"])
def test_the_make_targets_exist(target):
    assert f"`make {target}`" in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_commands_shown_exist():
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^manyloss (\w+)", "".join(blocks), re.MULTILINE)
    known = {info.name or info.callback.__name__ for info in cli.app.registered_commands}
    assert set(shown) <= known
    assert "compare" in shown


def test_it_is_two_screens():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert len(README.splitlines()) <= 140
    assert len(prose.split()) <= 900
