"""What the README says, done as it says: a small world, quick settings, a gate that lets anything through."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from kfp import compiler

from posttrain.artifacts.record import read_record
from posttrain.artifacts.rows import read_rows
from posttrain.taxonomy import Provenance
from posttrain.worlds.countdown import build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = """
evaluate: {samples: 4, max_new_tokens: 6}
rollout: {samples: 2, max_new_tokens: 6, slices: [easy]}
own_answers: {min_reward: 0.0}
teacher_answers: {min_reward: 0.0}
sft_policy: {max_steps: 2}
rl_policy: {max_new_tokens: 6, max_steps: 2}
small_policy: {layers: 2, config: {intermediate_size: 320}}
warm_policy: {max_steps: 2}
student_policy: {max_new_tokens: 6, max_steps: 2}
gate: {min_gain: -1, max_slice_loss: 1, max_support_loss: 1}
"""


QUICK_STEPS = """
evaluate: {samples: 4, max_new_tokens: 6}
rollout: {samples: 2, max_new_tokens: 6}
verify: {min_reward: 0.0}
sft: {max_steps: 2}
gate: {min_gain: -1, max_slice_loss: 1, max_support_loss: 1}
"""
QUICK_LOOP = """
evaluate: {samples: 4, max_new_tokens: 6}
follow:
  stage_settings:
    evaluate: {samples: 4, max_new_tokens: 6}
    rollout: {samples: 2, max_new_tokens: 6}
    sft: {max_steps: 2}
gate: {min_gain: -1, max_slice_loss: 1, max_support_loss: 1}
"""


def commands(heading: str) -> list[str]:
    """The indented commands of a section, continued lines joined, comments dropped."""
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    ")).replace("\\\n", " ")
    return [line for line in lines.splitlines() if line.startswith("posttrain ")]


def posttrain(command: str, where: Path, *more: str) -> str:
    program = Path(sys.executable).with_name("posttrain")
    words = [str(program), *shlex.split(command, comments=True)[1:], *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: models/my-model and data, as the README names them."""
    home = tmp_path_factory.mktemp("own")
    build(home / "world", seed=1, pretraining_steps=5)
    (home / "models").mkdir()
    (home / "data").mkdir()
    shutil.move(home / "world" / "base", home / "models" / "my-model")
    for name in ("problems.jsonl", "held_out.jsonl"):
        shutil.move(home / "world" / name, home / "data" / name)
    demos = read_rows(home / "world" / "demos.jsonl").rows
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(demos), home / "data" / "demos.parquet")
    (home / "quick.yaml").write_text(QUICK, encoding="utf-8")
    return home


@pytest.mark.timeout(1200)
def test_your_own_model_and_data(own: Path) -> None:
    listed, shown, run, lineage, report = commands("Your own model and data")
    assert "sft-rl-distil" in posttrain(listed, own)
    assert "--held-out" in posttrain(shown, own)

    # What the README sets for a real model comes first, so that the quick settings can win by --set.
    quick = ["--settings", "quick.yaml", "--set", "evaluate.samples=4", "--set", "rl_policy.max_steps=2"]
    told = posttrain(run, own, *quick)
    for expected in ("base policy", "student policy", "on-policy", "gate: pass", "registered: ", "20 stages in"):
        assert expected in told, told

    student = read_record(own / "out" / "registry" / "student" / "v1")
    assert student.trace and student.trace.provenance is Provenance.ON_POLICY
    family = {record.name: record for record in student.family().values()}
    assert family["student_policy"].facts["parameters"] * 2 <= family["base_policy"].facts["parameters"]  # type: ignore[operator]
    assert family["sft_policy"].trace and family["sft_policy"].trace.self_generated_fraction == pytest.approx(
        0.5, abs=0.01
    )
    assert json.loads((own / "out/registry/student/index.json").read_text(encoding="utf-8"))["champion"] == 1

    assert "teacher=rl_policy" in posttrain(lineage, own)
    (folder,) = (own / "out" / "runs").iterdir()
    page = folder / "report.html"
    written = page.read_text(encoding="utf-8")
    page.unlink()
    posttrain(report.replace("out/runs/…", f"out/runs/{folder.name}"), own)
    assert page.read_text(encoding="utf-8") == written
    assert written.count("<svg") > 8
    assert not re.search(r"""(?:src|href)=["']?http""", written)


@pytest.mark.timeout(600)
def test_what_holds_it_back_and_what_to_do_next(own: Path) -> None:
    diagnose, run, improve = commands("What holds it back, and what to do next")
    told = posttrain(diagnose, own, "--set", "evaluate.samples=16", "--set", "evaluate.max_new_tokens=6")
    for expected in ("what holds it back", "D1 The answers are out of reach", "next: SFT on demonstrations"):
        assert expected in told, told
    (own / "quick_steps.yaml").write_text(QUICK_STEPS, encoding="utf-8")
    inputs = improve.split("--base models/my-model")[1].split("--out")[0]
    told = posttrain(run.replace("…", inputs), own, "--settings", "quick_steps.yaml")
    assert "gate: pass" in told and "sft policy 1" in told, told
    (own / "quick_loop.yaml").write_text(QUICK_LOOP, encoding="utf-8")
    told = posttrain(improve.replace("--rounds 3", "--rounds 1"), own, "--settings", "quick_loop.yaml")
    for expected in ("round", "D1 The answers are out of reach", "SFT on demonstrations", "gate: pass", "registered: "):
        assert expected in told, told


def test_on_your_cluster(tmp_path: Path) -> None:
    (command,) = commands("On your cluster")
    posttrain(command, tmp_path)
    assert (tmp_path / "pipeline.yaml").stat().st_size > 10_000


def test_in_your_own_pipeline(tmp_path: Path) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    # Not inheriting: KFP cannot read annotations that this module's `from __future__` would make strings.
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec", dont_inherit=True), names)
    compiler.Compiler().compile(names["my_pipeline"], str(tmp_path / "own.yaml"))  # type: ignore[arg-type]
    assert "comp-sft" in (tmp_path / "own.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("target", re.findall(r"^    make (\w+)", README, flags=re.MULTILINE))
def test_make_knows_the_target(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
