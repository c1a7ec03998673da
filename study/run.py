"""Runs every sequence of steps in every world through the real stages; resumable, one process a core.

    python study/run.py [--worlds mixed,headroom] [--seeds 0,1,2] [--work DIR] [--processes 2]

Each line of `results/WORLD-SEED.jsonl` is one policy: the steps that led to it, what the rules saw of it on the probe
half of the held-out problems, how many of its samples were right on the exam half and on the anchors, seconds. Policies
stay in the work folder and are not kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path
from typing import Any

import yaml

from study.worlds import WORLDS, children, inputs_of

RESULTS = Path(__file__).parent / "results"
SETTINGS = Path(__file__).parent / "settings.yaml"

Parents = dict[str, str | Path | list[str | Path]]


class Node:
    """A policy of the tree: where it lies, and its evaluations."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policy = folder / "policy"
        self.probe, self.exam, self.anchors = (folder / name for name in ("probe", "exam", "anchors"))

    def finished(self) -> bool:
        return (self.folder / "row.json").is_file()


class World:
    """One world with one seed: its opening artifacts, its tree of policies."""

    def __init__(self, name: str, seed: int, work: Path) -> None:
        from posttrain.components.catalogue import load_stages

        self.name, self.seed, self.home = name, seed, work / f"{name}-{seed}"
        self.source = self.home / "world"
        self.settings: dict[str, Any] = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
        self.stages = load_stages()

    def build(self) -> None:
        """The world's files and the artifacts that every sequence shares."""
        from posttrain.artifacts.artifact import whole_or_nothing
        from posttrain.worlds.bottlenecks import build

        self.home.mkdir(parents=True, exist_ok=True)
        if not self.source.exists():
            with whole_or_nothing(self.source) as scratch:
                build(self.name, scratch, seed=self.seed)
        inputs = inputs_of(self.source)
        held_out = {"uri": inputs["held_out"], "kind": "problems"}
        self.make("base", {}, {"uri": inputs["base"]}, "base_policy")
        self.make("prepare", {}, held_out, "held_out")
        self.make("prepare", {}, {**held_out, "part": "first"}, "probe_problems")
        self.make("prepare", {}, {**held_out, "part": "second"}, "exam_problems")
        self.make("prepare", {"held_out": "held_out"}, {"uri": inputs["problems"], "kind": "problems"}, "problems")
        for role in ("teacher", "original"):
            if role in inputs:
                self.make("base", {}, {"uri": inputs[role]}, role)
        if "teacher" in inputs:
            self.make("evaluate", {"policy": "teacher", "problems": "probe_problems"}, {}, "teacher_evaluation")
        if "original" in inputs:
            self.make("evaluate", {"policy": "original", "problems": "probe_problems"}, {}, "original_evaluation")
        if "demos" in inputs:
            demos = {"uri": inputs["demos"], "kind": "trajectories"}
            self.make("prepare", {"held_out": "held_out"}, demos, "demos")
        if "anchors" in inputs:
            self.make("prepare", {}, {"uri": inputs["anchors"], "kind": "problems"}, "anchor_problems")
        sample = {"uri": inputs["problems"], "kind": "problems", "limit": 128}
        self.make("prepare", {}, sample, "training_sample")
        self.make("evaluate", {"policy": "base_policy", "problems": "training_sample"}, {}, "training_evaluation")

    def make(self, stage: str, parents: Parents, settings: dict[str, Any], name: str | Path) -> Path:
        """Run a stage unless its artifact is there."""
        from posttrain.stage import execute

        out = self.home / name
        if not out.exists():
            chosen = {**self.settings.get(stage, {}), **settings, "seed": self.seed, "name": Path(name).name}
            lists = {role: value if isinstance(value, list) else [value] for role, value in parents.items()}
            execute(self.stages[stage], {role: [self.home / p for p in ps] for role, ps in lists.items()}, chosen, out)
        return out

    def present(self, **roles: str) -> Parents:
        """Those parents that this world has."""
        return {role: name for role, name in roles.items() if (self.home / name).exists()}

    def node(self, path: tuple[str, ...]) -> Node:
        return Node(self.home / "tree" / ("-".join(path) or "base"))

    def visit(self, path: tuple[str, ...]) -> dict[str, Any]:
        """Take the last step of a sequence and measure; a step that cannot be taken says why."""
        from posttrain.errors import PosttrainError

        node, row = self.node(path), {"world": self.name, "seed": self.seed, "path": list(path)}
        if node.finished():
            found: dict[str, Any] = json.loads((node.folder / "row.json").read_text())
            return found
        started = time.monotonic()
        try:
            self.step(path, node)
        except PosttrainError as error:
            row |= {"failed": str(error)}
        else:
            row |= {"step_seconds": time.monotonic() - started, **self.measure(path, node)}
        node.folder.mkdir(parents=True, exist_ok=True)
        (node.folder / "row.json").write_text(json.dumps(row))
        return row

    def step(self, path: tuple[str, ...], node: Node) -> None:
        """The step's policy, from its parent's."""
        if node.policy.exists():
            return
        node.folder.mkdir(parents=True, exist_ok=True)
        if not path:
            shutil.copytree(self.home / "base_policy", node.policy)
            return
        from posttrain.recipes.compose import StepUse, compose
        from posttrain.recipes.execute import last_policy, run_stages

        recipe = compose("study", "study", [StepUse(step=path[-1])]).overlaid(self.settings)
        seeded = {
            name: spec.model_copy(update={"settings": {**spec.settings, "seed": self.seed + len(path)}})
            for name, spec in recipe.stages.items()
        }
        recipe = recipe.model_copy(update={"stages": seeded})
        given = {
            "base_policy": self.node(path[:-1]).policy,
            "train_problems": self.home / "problems",
            "held_out_problems": self.home / "held_out",
            "teacher_policy": self.home / "teacher",
            "original_policy": self.home / ("original" if (self.home / "original").exists() else "base_policy"),
        }
        held = {name: place for name, place in given.items() if place.exists()}
        scratch = node.folder / "stages"
        shutil.rmtree(scratch, ignore_errors=True)
        paths = run_stages(recipe, self.stages, inputs_of(self.source), scratch, only=recipe.result, given=held)
        last_policy(paths, recipe, self.stages).path.rename(node.policy)
        shutil.rmtree(scratch)

    def measure(self, path: tuple[str, ...], node: Node) -> dict[str, Any]:
        """What the rules see (probe, anchors), and what the sequence is judged by (exam, anchors)."""
        started = time.monotonic()
        parent = self.node(path[:-1]) if path else None
        here = {name: node.folder.relative_to(self.home) / name for name in ("policy", "probe", "exam", "anchors")}
        self.make("evaluate", {"policy": here["policy"], "problems": "probe_problems"}, {}, here["probe"])
        self.make("evaluate", {"policy": here["policy"], "problems": "exam_problems"}, {}, here["exam"])
        parents: Parents = {"evaluation": here["probe"], "policy": here["policy"]}
        if (self.home / "anchor_problems").exists():
            self.make("evaluate", {"policy": here["policy"], "problems": "anchor_problems"}, {}, here["anchors"])
            parents["anchors"] = [Path("tree") / "base" / "anchors", *([here["anchors"]] if path else [])]
        if parent:
            parents["before"] = parent.probe.relative_to(self.home)
            parents["original"] = "base_policy"
        else:
            parents |= self.present(before="original_evaluation")
        parents |= self.present(teacher="teacher_evaluation", demos="demos", original="original")
        parents |= self.present(training="training_evaluation") if not path else {}
        diagnosis = self.make("diagnose", parents, {}, node.folder.relative_to(self.home) / "diagnosis")
        seconds = time.monotonic() - started
        counts = {name: _counts(node.folder / name) for name in ("exam", "anchors") if (node.folder / name).exists()}
        if not path and (self.home / "original").exists():
            # What bringing it back is judged by.
            self.make("evaluate", {"policy": "original", "problems": "exam_problems"}, {}, "original_exam")
            counts["original"] = _counts(self.home / "original_exam")
        return {
            "diagnosis": json.loads((diagnosis / "diagnosis.json").read_text()),
            "measure_seconds": seconds,
            **counts,
        }


def _counts(evaluation: Path) -> dict[str, Any]:
    from posttrain.artifacts.evaluation import read_evaluation

    measured = read_evaluation(evaluation)
    return {
        "slice": measured.slice_M.tolist(),
        "scored": measured.scored_M.astype(int).tolist(),
        "correct": measured.correct_M.astype(int).tolist(),
    }


def run_world(name: str, seed: int, work: Path) -> str:
    """A whole tree, breadth first; its rows are written together when it is done."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    started = time.monotonic()
    out = RESULTS / f"{name}-{seed}.jsonl"
    if out.exists():
        return f"{name}-{seed}: there"
    world = World(name, seed, work)
    world.build()
    queue: list[tuple[str, ...]] = [()]
    rows = []
    while queue:
        path = queue.pop(0)
        row = world.visit(path)
        rows.append(row)
        if "failed" not in row:
            queue += children(path, world.source)
        print(f"{name}-{seed} {'/'.join(path) or 'base'} {len(rows)} done", flush=True)
    RESULTS.mkdir(exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.rmtree(world.home / "tree")
    return f"{name}-{seed}: {len(rows)} policies in {time.monotonic() - started:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", default=",".join(WORLDS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--work", type=Path, default=Path("study-work"))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    chosen = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    jobs = [(w, int(s), chosen.work.absolute()) for s in chosen.seeds.split(",") for w in chosen.worlds.split(",")]
    with multiprocessing.get_context("spawn").Pool(chosen.processes, maxtasksperchild=1) as pool:
        for job in [pool.apply_async(run_world, job) for job in jobs]:
            print(job.get(), flush=True)


if __name__ == "__main__":
    main()
