"""A recipe run in one process: what its stages are told of checkpoints."""

import pytest
from posttrain.components.catalogue import load_stages

from posttrain.recipes import execute
from posttrain.recipes.load import parse_recipe

RECIPE = """
name: small
title: Small
inputs: {base: {help: The policy.}}
stages:
  first: {use: base, with: {uri: "${base}"}}
  rows: {use: prepare, with: {uri: "${base}", kind: trajectories}}
  warm: {use: sft, parents: {init: first, data: rows}, role: expansion}
  tuned: {use: sft, parents: {init: warm, data: rows}, role: expansion, with: {checkpoint_seconds: 5}}
"""
SHARED = {"checkpoint_uri": "s3://bucket/kept", "checkpoint_steps": 0, "checkpoint_seconds": 60.0}


@pytest.mark.parametrize("shared", [SHARED, None])
def test_every_stage_that_trains_is_told_where_its_checkpoints_go(tmp_path, monkeypatch, shared):
    told = {}

    def stage(stage, parents, settings, out, page):
        told[settings["name"]] = {key: value for key, value in settings.items() if key in execute.SHARED_SETTINGS}

    monkeypatch.setattr(execute, "execute", stage)
    stages = load_stages()
    execute.run_stages(
        parse_recipe(RECIPE, "small", stages), stages, {"base": "x"}, tmp_path, checkpoints=shared, train=stage
    )
    own = {"checkpoint_seconds": 5}
    assert told == {"first": {}, "rows": {}, "warm": shared or {}, "tuned": (shared or {}) | own}
