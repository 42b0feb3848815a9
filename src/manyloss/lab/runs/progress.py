"""What the user sees while trials run: live bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from manyloss import catalog
from manyloss.lab.printing import FEW, few

#: Seconds between two lines about running trials where there is no terminal.
LINE_EVERY = 30.0
#: A trial that has said nothing for so many seconds is shown as silent.
SILENT_AFTER = 60.0


def duration(seconds: float) -> str:
    """A time a person reads: ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Display(ABC):
    """Follows a study: how many epochs are to be done, which trials run, how they end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.trials = 0
        self.ended = 0
        self.total = 0.0
        self.done = 0.0
        self.started = time.monotonic()
        self.running: dict[str, tuple[float, int, Mapping[str, float]]] = {}
        self._from: dict[str, float] = {}
        self._silent: dict[str, float] = {}

    def plan(self, trials: int, missing: Sequence[int]) -> None:
        """Tell how much there is to do: how many trials there are, and the epochs of each that is missing."""
        self.trials = trials
        self.ended = trials - len(missing)
        self.total = float(sum(missing))
        self.started = time.monotonic()

    def follow(self, label: str, done: float, epochs: int, losses: Mapping[str, float]) -> None:
        """A trial has done so many of its epochs."""
        if label not in self._from:
            # What an earlier run did costs nothing now.
            self._from[label] = done
            self.total -= done
        self._silent.pop(label, None)
        self.running[label] = (done, epochs, losses or self.running.get(label, (0, 0, {}))[2])
        self.show()

    def silent(self, label: str, seconds: float) -> None:
        """A trial has said nothing for so long."""
        self._silent[label] = seconds
        self.show()

    def silence(self, label: str) -> str:
        """In words, if it is long."""
        seconds = self._silent.get(label, 0.0)
        return f"silent for {duration(seconds)}" if seconds >= SILENT_AFTER else ""

    def end(self, label: str, epochs: int, result: Mapping[str, Any]) -> None:
        """A trial has ended, well or not."""
        self._silent.pop(label, None)
        self.done += epochs - self._from.pop(label, 0.0)
        self.running.pop(label, None)
        self.ended += 1
        self._say(self._line(label, result))
        self.show()

    def again(self, label: str, why: str) -> None:
        """A trial's process was lost, and the trial goes on in another one."""
        self.running.pop(label, None)
        self._say(f"[yellow]{escape(_named(label))}: {escape(why)}; it goes on after its last epoch[/]")

    def left(self) -> float | None:
        """Estimated seconds until the end; None while nothing is known."""
        running = sum(done - self._from.get(label, 0.0) for label, (done, _, _) in self.running.items())
        done = self.done + running
        elapsed = time.monotonic() - self.started
        return None if done <= 0 else elapsed * (self.total - done) / done

    def _say(self, line: str) -> None:
        """A line stays one line in a log."""
        self.console.print(line, highlight=False, soft_wrap=not self.console.is_terminal)

    def _line(self, label: str, result: Mapping[str, Any]) -> str:
        width = len(str(self.trials))
        head = f"[dim][{self.ended:>{width}}/{self.trials}][/dim] {escape(_named(label))}"
        if result["status"] == "pruned":
            return f"{head} [dim]stopped early: {escape(_shortened(str(result['reason'])))}[/]"
        if result["status"] != "finished":
            return f"{head} [red]{result['status']}: {escape(_shortened(str(result['reason'])))}[/]"
        values = escape(few([f"{name} {value:.4g}" for name, value in _known(result["validation"])], ", "))
        time_left = self.left()
        tail = "" if not time_left else f"; about {duration(time_left)} left"
        took = duration(result.get("seconds") or 0.0)
        return f"{head} best epoch {result['best_epoch']}: {values} [dim]({took}{tail})[/]"

    @abstractmethod
    def show(self) -> None:
        """Draw what is known."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Begin to draw."""

    @abstractmethod
    def stop(self) -> None:
        """Stop drawing."""


class PlainDisplay(Display):
    """Lines for logs and pipes: one per trial, and one about the running ones now and then."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = time.monotonic()

    def start(self) -> None:
        """Lines need no start."""

    def stop(self) -> None:
        """Lines need no end."""

    def show(self) -> None:
        """Print a line if the last one is long ago."""
        now = time.monotonic()
        if now - self._last < LINE_EVERY:
            return
        self._last = now
        for label, (done, epochs, losses) in self.running.items():
            shown = few([f"{name} {value:.3g}" for name, value in losses.items()], "  ")
            silence = self.silence(label)
            known = f"{done:.1f} of {epochs} epochs  " if epochs > 1 else ""  # a script does not say
            self._say(escape(f"  {_named(label)}: {known}{shown}  {silence}".rstrip()))

    def end(self, label: str, epochs: int, result: Mapping[str, Any]) -> None:
        """As `Display.end`; the next line about running trials can wait."""
        super().end(label, epochs, result)
        self._last = time.monotonic()


class LiveDisplay(Display):
    """Bars that are redrawn in place."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, refresh_per_second=6, transient=True, get_renderable=self._draw)

    def show(self) -> None:
        """The live display redraws by itself."""

    def start(self) -> None:
        """Show the bars."""
        self._live.start()

    def stop(self) -> None:
        """Take the bars away."""
        self._live.stop()

    def _draw(self) -> RenderableType:
        grid = Table.grid(padding=(0, 1))
        for _ in range(4):
            grid.add_column(no_wrap=True)
        done = self.done
        for label, (epoch, epochs, losses) in sorted(self.running.items()):
            done += epoch - self._from.get(label, 0.0)
            shown = few([f"{name} {value:.3g}" for name, value in losses.items()], "  ")
            bar = ProgressBar(total=epochs, completed=epoch, width=20)
            grid.add_row(
                Text(_named(label)),
                bar,
                Text(f"{int(epoch)}/{epochs}" if epochs > 1 else ""),
                Text(self.silence(label) or shown, style="dim"),
            )
        time_left = self.left()
        words = f"{self.ended} of {self.trials} trials"
        tail = "starting" if time_left is None else f"about {duration(time_left)} left"
        bar = ProgressBar(total=max(self.total, 1e-9), completed=done, width=20)
        grid.add_row(Text(words, style="bold"), bar, Text(""), Text(tail, style="bold"))
        return Group(grid)


def display_for(console: Console) -> Display:
    """Live bars in a terminal, plain lines elsewhere."""
    return LiveDisplay(console) if console.is_terminal else PlainDisplay(console)


def _named(label: str) -> str:
    """A trial's label, with the first of an arm's many options."""
    arm, _, seed = label.rpartition(" seed ")
    name, _, text = arm.partition(":")
    options = [each if value is None else f"{each}={value}" for each, value in catalog.options_in(text, ())]
    return label if len(options) <= FEW else f"{name}:{few(options, ':')}, seed {seed}"


def _known(values: Mapping[str, float | None]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in values.items() if value is not None]


def _shortened(text: str, limit: int = 160) -> str:
    line = text.splitlines()[0] if text else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"
