"""``manyloss reproduce``: a paper's experiment, its verdict, and other readings of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyloss.lab import checks
from manyloss.lab.commands.experiments import page_of, run_trials, show_results
from manyloss.lab.commands.packs import start_from_packed
from manyloss.lab.commands.requests import choose_seeds, request_of
from manyloss.lab.runs.executors.choice import Lending

if TYPE_CHECKING:
    from rich.console import Console

    from manyloss.lab.analysis.comparison import ComparedMethods
    from manyloss.lab.claims import Claim, Readings, Verdict
    from manyloss.lab.experiment import Experiment
    from manyloss.lab.runs.executors import Executor


def reproduce(
    claim: str,
    *,
    scale: str = "small",
    readings: int | str | None = None,
    reading_seeds: int | None = None,
    seeds: int | Sequence[int] | None = None,
    jobs: int | None = None,
    out: str | Path | None = None,
    data: str | None = None,
    data_root: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "cpu",
    fast: bool = False,
    retry: bool = False,
    trial_timeout: float | None = None,
    executor: str | Executor = "processes",
    start_from: str | Path | None = None,
    console: Console | None = None,
    command: Sequence[str] = (),
) -> tuple[Verdict, ComparedMethods]:
    """Run a paper's experiment, and judge its claim by a rule that was written beforehand.

    Args: as of `compare`; ``scale`` is smoke, small, medium (where a recipe has it) or full: the paper's own
    size. ``readings`` also tries other answers to what the paper leaves open: "all" of those that the claim
    lists, or so many, drawn with a fixed seed; the verdict then says under how many the claim
    holds, and ``readings.html`` draws them. ``reading_seeds`` judges each reading with the first so many of
    the seeds; the verdict has them all.

    Trials that another claim on the same experiment has finished, in a run folder beside ``out`` or in its
    readings, are copied if they have the same settings and this claim's rule was there when that folder was
    begun.
    """
    from manyloss.lab import claims
    from manyloss.lab.experiment import Experiment
    from manyloss.lab.runs import storage

    chosen = claims.claim_named(claim)
    count = _how_many_readings(readings)
    request = request_of(chosen.recipe, data=data, data_root=data_root, options=options, scale=scale)
    name = "-".join([chosen.name, *request.words])
    root = Path("runs") / name if out is None else Path(out)
    start_from_packed(start_from, root, name, console)
    claims.check_folder(chosen, root)
    experiment = Experiment(
        request.source,
        chosen.arms,
        choose_seeds(request.seeds if seeds is None else seeds),
        root,
        common={
            "epochs": request.epochs,
            "jobs": jobs,
            "device": device,
            "fast": fast,
            "command": list(command) or [f"lab.reproduce({claim!r}, ...)"],
            "notes": {
                **request.notes,
                "claim": chosen.name,
                "rule": chosen.rule,
                "rules": claims.rules_of_recipe(chosen.recipe),
            },
        },
    )
    few = _seeds_of_readings(reading_seeds, readings, experiment.first.seeds)
    others = claims.folders_of_other_claims(chosen, root)
    experiment.first.take_over(others)
    with Lending(executor, root) as lending:
        run_trials(experiment, lending, retry=retry, timeout=trial_timeout, console=console)
        study = experiment.first
        verdict = claims.judge(chosen, study.root, study.problem, scale=scale, seeds=study.seeds)
        path = study.root / "claim.json"
        judged = any(finding.outcome != "no result" for finding in verdict.findings)
        if judged:
            storage.write_json(path, claims.record_of(verdict, study.root))
        results = show_results(experiment, console)
        if readings is not None:
            tried = _try_readings(
                chosen, verdict, count, few, experiment, others, lending, retry=retry, timeout=trial_timeout,
                console=console,
            )  # fmt: skip
            verdict = replace(verdict, readings=tried)
            if judged:
                storage.write_json(path, claims.record_of(verdict, study.root))
                page_of(study.root, None, None, 0.0)  # again, with the readings
    if console is not None:
        console.print()
        for line in claims.lines_of(verdict):
            console.print(line, style="bold" if line.startswith("Verdict") else "", markup=False)
        if judged:
            console.print(f"\nVerdict and numbers: {path}", markup=False)
    return verdict, results


def _how_many_readings(asked: int | str | None) -> int | None:
    """How many are to be tried; None for all."""
    if asked is None or str(asked) == "all":
        return None
    if str(asked).isdecimal() and int(asked) > 0:
        return int(asked)
    raise checks.LabError(
        f"--readings {str(asked)[:60]!r} is not understood. Give how many are to be tried "
        "(--readings 24), or all."
    )


def _seeds_of_readings(few: int | None, readings: int | str | None, seeds: Sequence[int]) -> Sequence[int]:
    """The first ``few`` of the run's seeds; all of them when None."""
    if few is None:
        return seeds
    if readings is None:
        raise checks.LabError(
            "--reading-seeds is for --readings, which is not given. Add --readings 24 or all."
        )
    if not 1 <= few <= len(seeds):
        raise checks.LabError(
            f"--reading-seeds {few} is not between 1 and the run's {len(seeds)} seeds. "
            "Leave it out, and every reading has them all; or give the run more: --seeds."
        )
    return seeds[:few]


def _try_readings(
    claim: Claim,
    in_force: Verdict,
    count: int | None,
    seeds: Sequence[int],
    experiment: Experiment,
    others: Sequence[Path],
    lending: Lending,
    *,
    retry: bool,
    timeout: float | None,
    console: Console | None,
) -> Readings:
    """Every chosen reading as a study of its own, in ``readings/`` of the run folder; the first has run."""
    from rich.console import Console

    from manyloss.lab import claims
    from manyloss.lab.claims import readings
    from manyloss.lab.experiment import Experiment
    from manyloss.lab.reports.readings import write_readings
    from manyloss.lab.runs import storage
    from manyloss.lab.runs.progress import display_for
    from manyloss.lab.runs.source import Source

    say, study = console or Console(quiet=True), experiment.first
    opens = claims.readings_of(claim.name)
    wanted = readings.chosen(opens, count)
    own = claims.judge(claim, study.root, study.problem, scale=in_force.scale, seeds=seeds)
    found, roots, crashes = [readings.judged(wanted[0], own)], [study.root], 0
    for number, settings in enumerate(wanted[1:], start=2):
        options = {**experiment.source.options, **readings.options_of_reading(opens, settings)}
        source = Source(experiment.source.where, options)
        epochs = max(1, round(study.epochs * settings.get("epochs", 1)))
        root = study.root / "readings" / storage.fingerprint(settings)
        claims.check_folder(claim, root)
        notes = {**experiment.common["notes"], "reading": settings}
        common = {**experiment.common, "epochs": epochs, "notes": notes}
        planned = Experiment(source, claim.arms, seeds, root, common=common).first
        words = ", ".join(f"{name} {value}" for name, value in settings.items())
        say.print(f"\nReading {number} of {len(wanted)}: {words}", markup=False)
        planned.take_over([*roots, *others])
        try:
            lent = lending.to(planned, retry=retry)
            planned.run(display_for(say), retry=retry, timeout=timeout, executor=lent)
        except KeyboardInterrupt:
            say.print(
                f"[yellow]Stopped in reading {number} of {len(wanted)}. "
                "Run the same command again: it goes on after the last whole epoch.[/]"
            )
            raise
        crashed = planned.crashed()
        if crashed:
            spec, result = crashed[0]
            say.print(
                f"{len(crashed)} of {len(planned.trials())} trials of this reading crashed, and checks of it "
                f"have no result; {spec.label}: {result['reason']}. --retry lets them go on.",
                markup=False,
            )
        crashes += len(crashed)
        roots.append(root)
        verdict = claims.judge(claim, root, planned.problem, scale=in_force.scale, seeds=seeds)
        found.append(readings.judged(settings, verdict))
    tried = replace(readings.summed_up(opens, found), crashed=crashes)
    page = write_readings(study.root, claim, tried)
    say.print(f"\nReadings: {page}", markup=False)
    return tried
