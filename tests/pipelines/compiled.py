"""A compiled pipeline, taken apart by task."""

import re

import yaml
from posttrain.components.catalogue import load_stage
from posttrain.pipelines.compiler import compile_recipe, is_tunable

SMALL = """
name: small
title: Small
inputs: {base: {help: The policy.}, data: {help: Demonstrations., default: demos.jsonl}}
stages:
  first: {use: base, with: {uri: "${base}"}}
  rows: {use: prepare, with: {uri: "${data}", kind: trajectories}}
  tuned: {use: sft, parents: {init: first, data: rows}, role: expansion, with: {epochs: 7}}
"""


class Compiled:
    """A compiled pipeline, by task."""

    def __init__(self, recipe, file, scheduling=None):
        compile_recipe(recipe, file, scheduling)
        self.recipe = recipe
        self.spec, platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
        self.pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.containers = {name: entry["container"] for name, entry in self.spec["deploymentSpec"]["executors"].items()}
        dags = [self.spec["root"]["dag"], *(c["dag"] for c in self.spec["components"].values() if "dag" in c)]
        # Stage name in the recipe → (task, executor); a condition's group has no executor.
        self.tasks = {}
        for dag in dags:
            for task in dag["tasks"].values():
                component = self.spec["components"][task["componentRef"]["name"]]
                if "executorLabel" in component:
                    self.tasks[task["taskInfo"]["name"]] = (task, component["executorLabel"])

    def stage(self, name):
        return load_stage(self.recipe.stages[name].use)

    def inputs(self):
        return self.spec["root"]["inputDefinitions"]["parameters"]

    def tunable(self):
        return {name: spec for name, spec in self.recipe.stages.items() if is_tunable(name, spec)}

    def settings(self, name):
        """A stage's settings, in the form or fixed."""
        if name in self.tunable():
            return self.inputs()[f"settings_{name}"]["defaultValue"]
        return self.tasks[name][0]["inputs"]["parameters"]["settings"]["runtimeValue"]["constant"]


def origin(task, parameter):
    """The pipeline's parameter that a task's parameter comes from."""
    value = task["inputs"]["parameters"][parameter]
    if "runtimeValue" in value:
        (channel,) = re.findall(r"\{\{\$\.inputs\.parameters\['(.+?)'\]\}\}", value["runtimeValue"]["constant"])
        value = task["inputs"]["parameters"][channel]
    return value["componentInputParameter"].removeprefix("pipelinechannel--")
