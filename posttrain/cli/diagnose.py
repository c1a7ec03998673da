"""`posttrain diagnose`, `recommend` and `improve`."""

from __future__ import annotations

from pathlib import Path

from posttrain.components.catalogue import load_stages
from rich.console import Console

from posttrain.cli.show import print_table, table
from posttrain.diagnosis.diagnosis import ALL, Diagnosis, read_diagnosis
from posttrain.diagnosis.intervals import Interval
from posttrain.diagnosis.recommend import RECIPE_FILE, Recommendation, read_recommendation
from posttrain.errors import ConfigError
from posttrain.recipes.execute import run_stages
from posttrain.recipes.load import check_recipe
from posttrain.recipes.loops import diagnose_recipe
from posttrain.stage import execute

# The signals that a table in a terminal has room for.
_SHOWN = ("pass_1", "pass_k", "headroom", "always_fail", "informative", "majority", "entropy", "truncated")


def diagnose(inputs: dict[str, str], out: Path, settings: Path | None, changes: list[str]) -> None:
    """Measure a policy, print what holds it back and what to do next.

    Args:
        inputs: the inputs of the recipe `diagnose` that were given.

    Raises:
        PosttrainError: an input is wrong, or a stage failed.
    """
    from posttrain.cli.arguments import changed, refuse_missing

    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out}: exists already; choose another, or remove it")
    stages = load_stages()
    recipe = changed(diagnose_recipe(), settings, changes)
    check_recipe(recipe, "diagnose", stages)
    refuse_missing(recipe, inputs)
    console = Console(stderr=True)
    with console.status("starting") as status:
        paths = run_stages(
            recipe,
            stages,
            inputs,
            out,
            on_stage=lambda name, done, total: status.update(f"{name} ({done + 1}/{total})"),
        )
    print_diagnosis(read_diagnosis(paths["diagnosis"]))
    print_recommendation(paths["recommendation"])
    print(f"page: {out / 'diagnosis.html'}")


def recommend(diagnosis: Path, out: Path, thresholds: list[str], previous: Path | None) -> None:
    """Print what to do next, and write it as a recipe."""
    bounds = {}
    for text in thresholds:
        name, _, value = text.partition("=")
        try:
            bounds[name] = float(value)
        except ValueError:
            raise ConfigError(f"--threshold {text!r}: write NAME=NUMBER, as headroom=0.3") from None
    stage = load_stages()["recommend"]
    parents = {"diagnosis": [diagnosis], "previous": [previous] if previous else []}
    execute(stage, parents, {"thresholds": bounds, "name": "recommendation"}, out, out.with_suffix(".html"))
    print_recommendation(out)


def print_diagnosis(found: Diagnosis) -> None:
    """What holds the policy back, by slice, with the signals that say so."""
    print(f"{found.policy}: {found.problems} problems, {found.samples} samples each, K = {found.k}\n")
    findings = table("slice", "what holds it back", "rule", "evidence")
    for name, finding in found.findings.items():
        doubt = "" if finding.decided else " (undecided)"
        findings.add_row(
            name, finding.diagnosis + doubt, f"{finding.rule} {finding.title}", "; ".join(finding.evidence)
        )
    print_table(findings)
    shown = [name for name in _SHOWN if name in found.signals[ALL]]
    signals = table("signal", *found.signals)
    for name in [*shown, *(name for name in found.signals[ALL] if name not in shown)]:
        cells = [found.signals[part].get(name) for part in found.signals]
        signals.add_row(name, *("" if cell is None else str(Interval(*cell)) for cell in cells))
    print_table(signals)


def print_recommendation(artifact: Path) -> None:
    """The rule, the steps with their settings, what would change the answer; and where the recipe lies."""
    from posttrain.report.recommendation import headline

    found: Recommendation = read_recommendation(artifact)
    print(f"next: {headline(found)}")
    print(f"  {found.rule} {found.title}. {found.remedy}")
    for text in found.evidence:
        print(f"  because {text}")
    for choice in found.choices:
        print(f"  {choice['step']} {choice['stage']}.{choice['setting']} = {choice['value']} ({choice['why']})")
    lines = {
        "cost": [found.cost] if found.cost else [],
        "lacks": found.lacking,
        "note": found.notes,
        "would change it": found.would_change,
        "settles it": found.ablation,
    }
    for label, texts in lines.items():
        for text in texts:
            print(f"  {label}: {text}")
    if found.steps:
        print(f"recipe: {artifact / RECIPE_FILE}")
