"""What stages refuse before any work: parents that do not fit, prompts too long, no room."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from posttrain.components.catalogue import load_stage
from posttrain.components.evaluate.stage import contamination

from posttrain.artifacts import contracts, provenance
from posttrain.artifacts.record import ParentRef, read_record
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import (
    RETRYABLE,
    ConfigError,
    ContractError,
    DataError,
    PolicyError,
    ProvenanceError,
    StorageError,
    VerifierError,
)
from posttrain.stage import Work, execute, open_parents
from tests.disk import small_disk
from tests.made import based, demo, evaluated, prepared, problem, refused, rolled_out
from tests.tiny import CONTEXT

__all__ = ["small_disk"]


@pytest.fixture(scope="module")
def home(home):
    """Artifacts that most tests need: a policy, another of the same family, problems, demonstrations."""
    prepared(home / "chat", [problem(n, prompt=[{"role": "user", "content": str(n)}]) for n in range(8)])
    prepared(home / "demos", [demo(n) for n in range(8)], "trajectories")
    return home


@pytest.fixture
def model(home, tmp_path):
    """A copy of the model to break or change."""
    return shutil.copytree(home / "model", tmp_path / "model")


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def pickled(model):
    (model / "model.safetensors").unlink()
    torch.save({}, model / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("break_it", "mentions"),
    [
        (pickled, ["pytorch_model.bin", "pickle", "save them as safetensors"]),
        (lambda m: edit(m / "config.json", auto_map={"AutoModel": "x.Y"}), ["config.json", "trust_remote_code"]),
        (lambda m: (m / "config.json").unlink(), ["no config.json", "not a Hugging Face model directory"]),
    ],
    ids=["pickle", "remote code", "not a model"],
)
def test_base_refuses_what_must_not_be_loaded(model, out, break_it, mentions):
    break_it(model)
    refused("base", {}, {"uri": str(model)}, out, PolicyError, *mentions)


def test_base_leaves_pickles_beside_safetensors_behind(model, out):
    torch.save({}, model / "pytorch_model.bin")
    torch.save({}, model / "training_args.bin")
    record = execute(load_stage("base"), {}, {"uri": str(model)}, out)
    assert record.counts["pickles_left_out"] == 2
    assert not list(out.glob("*.bin"))


def test_base_keeps_the_files_and_their_digests(home):
    record = read_record(home / "policy")
    for name, entry in record.files.items():
        assert (home / "model" / name).stat().st_size == entry.size
    assert read_record(home / "sibling").digest != record.digest
    assert read_record(home / "sibling").facts["tokenizer"] == record.facts["tokenizer"]


@pytest.mark.parametrize(
    ("stage", "role"), [("evaluate", "policy"), ("rollout", "policy"), ("rl", "init"), ("distill", "init")]
)
def test_prompts_longer_than_the_context(home, tmp_path, out, stage, role):
    long = prepared(tmp_path / "long", [problem(1), problem(2, prompt="1" * 100, id="too-long")])
    parents = {role: [home / "policy"], "problems": [long]}
    if stage == "distill":
        parents["teacher"] = [home / "policy"]
    mentions = ["'too-long' has 100 prompt tokens", "with 29 new tokens", f"context of {CONTEXT} (1 such)", "shorten"]
    settings = {"max_new_tokens": 29} | ({"batch_size": 1} if stage == "distill" else {})
    refused(stage, parents, settings, out, ContractError, *mentions)


def test_the_last_token_of_the_context_may_be_used(home, tmp_path):
    long = prepared(tmp_path / "long", [problem(2, prompt="1" * 100)])
    stage = load_stage("evaluate")
    parents = {"policy": [home / "policy"], "problems": [long]}
    stage.check(stage.settings(max_new_tokens=28), open_parents(stage, parents))


@pytest.mark.parametrize(
    ("stage", "role"), [("evaluate", "policy"), ("rollout", "policy"), ("rl", "init"), ("distill", "init")]
)
def test_messages_need_a_chat_template(home, out, stage, role):
    parents = {role: [home / "policy"], "problems": [home / "chat"]}
    if stage == "distill":
        parents["teacher"] = [home / "policy"]
    refused(stage, parents, {}, out, ContractError, "'row-1' is conversational", "add chat_template.jinja")


DIFFERENCES = {
    "tokenizer": lambda m: (m / "tokenizer.json").write_text((m / "tokenizer.json").read_text().replace("unk", "UNK")),
    "chat_template": lambda m: (m / "chat_template.jinja").write_text("{{ messages }}"),
    "eos": lambda m: edit(m / "generation_config.json", eos_token_id=[1, 2]),
}


@pytest.mark.parametrize("fact", DIFFERENCES)
def test_distill_refuses_texts_that_mean_something_else_unless_accepted_by_name(home, tmp_path, model, out, fact):
    DIFFERENCES[fact](model)
    teacher = based(tmp_path / "teacher", model)
    parents = {"init": [home / "policy"], "teacher": [teacher], "problems": [home / "problems"]}
    mentions = [f"{fact} differs between init", "and teacher", f"accept_differences=['{fact}']"]
    refused("distill", parents, {"max_new_tokens": 8}, out, ContractError, *mentions)
    other = next(name for name in DIFFERENCES if name != fact)
    settings = {"max_new_tokens": 8, "accept_differences": [other]}
    refused("distill", parents, settings, out, ContractError, *mentions)
    stage = load_stage("distill")
    stage.check(stage.settings(max_new_tokens=8, accept_differences=[fact]), open_parents(stage, parents))


@pytest.mark.parametrize("fact", DIFFERENCES)
def test_each_difference_is_one_of_its_own(home, tmp_path, model, fact):
    DIFFERENCES[fact](model)
    changed = read_record(based(tmp_path / "changed", model)).facts
    same = read_record(home / "policy").facts
    assert {name for name in DIFFERENCES if changed[name] != same[name]} == {fact}


def test_sequence_distillation_wants_the_teachers_own_rows(home, tmp_path, out):
    parents = {"init": [home / "policy"], "teacher": [home / "sibling"]}
    settings = {"method": "sequence_distillation", "max_steps": 1}
    refused("distill", parents, settings, out, ContractError, "needs a parent 'data'", "the teachers' trajectories")
    mine = rolled_out(tmp_path / "mine", home / "policy", home / "problems", [demo(1), demo(2)])
    refused("distill", parents | {"data": [mine]}, settings, out, ProvenanceError, "2 of 2 rows were not sampled by",
            "accept_provenance=off-policy")  # fmt: skip


def test_on_policy_distillation_needs_problems(home, out):
    parents = {"init": [home / "policy"], "teacher": [home / "policy"]}
    refused("distill", parents, {}, out, ContractError, "needs a parent 'problems'")


def test_sft_needs_rows_of_a_supervised_shape(home, tmp_path, out):
    pairs = prepared(tmp_path / "pairs", [{"prompt": "1", "chosen": "2", "rejected": "3"}], "trajectories")
    chat = prepared(tmp_path / "chat", [{"messages": [{"role": "user", "content": "1"}]}], "trajectories")
    parents = {"init": [home / "policy"]}
    refused("sft", parents | {"data": [pairs]}, {}, out, ContractError, "shape 'preference'", "prompt-completion")
    refused("sft", parents | {"data": [chat]}, {}, out, ContractError, "no chat template", "add chat_template.jinja")


@pytest.mark.parametrize(
    ("arguments", "mentions"),
    [
        ({"epsilom": 0.2}, ["no 'epsilom'"]),
        ({"weight_decai": 0.2}, ["SFTConfig has no 'weight_decai'", "did you mean 'weight_decay'?"]),
        ({"learning_rate": 1}, ["trainer_args.learning_rate=1", "use that"]),
        ({"trust_remote_code": True}, ["trust_remote_code=True", "remote code is never run"]),
        ({"output_dir": "/etc"}, ["output_dir", "leave it out"]),
    ],
    ids=str,
)
def test_a_misspelt_trainer_argument_is_refused_before_training(home, out, arguments, mentions):
    parents = {"init": [home / "policy"], "data": [home / "demos"]}
    refused("sft", parents, {"trainer_args": arguments, "max_steps": 1}, out, ConfigError, *mentions)


@pytest.mark.parametrize("stage", ["sft", "rl", "distill", "evaluate", "rollout", "student", "gate", "verify"])
def test_a_misspelt_setting_names_the_nearest(out, stage):
    name = next(name for name in load_stage(stage).settings.model_fields if len(name) > 6)
    misspelt = name[:-2] + name[-1]
    refused(stage, {}, {misspelt: 1}, out, ConfigError, f"{stage}: unknown setting {misspelt}=1", f"'{name}'?")


WRONG = [("evaluate", "policy", "problems"), ("sft", "data", "problems"), ("rl", "problems", "demos"),
         ("student", "teacher", "demos"), ("verify", "trajectories", "policy"), ("gate", "candidate", "policy"),
         ("register", "policy", "problems"), ("report", "evaluations", "policy")]  # fmt: skip


@pytest.mark.parametrize(("stage", "role", "given"), WRONG)
def test_a_parent_of_the_wrong_kind_is_refused(home, out, stage, role, given):
    needed = load_stage(stage).parents[role].kind
    good = {"policy": "policy", "problems": "problems", "trajectories": "demos", "evaluation": "", "decision": ""}
    roles = load_stage(stage).parents
    parents = {name: [home / good[spec.kind]] for name, spec in roles.items() if good.get(spec.kind)}
    filled = {name: parents.get(name, [home / "policy"]) for name, spec in roles.items() if spec.required}
    settings = {"registry": "r", "model": "m"} if stage == "register" else {}
    mentions = [f"where a {needed} is needed", "artifact (made by"]
    refused(stage, filled | {role: [home / given]}, settings, out, ContractError, *mentions)


@pytest.mark.parametrize("stage", ["sft", "rl", "evaluate", "gate"])
def test_a_missing_parent_says_what_it_is_for(out, stage):
    role, spec = next(iter(load_stage(stage).parents.items()))
    refused(stage, {}, {}, out, ContractError, f"{stage}: needs a parent '{role}' ({spec.kind}): {spec.help}")


def test_a_parent_that_was_changed_is_refused(home, tmp_path, out):
    broken = shutil.copytree(home / "policy", tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    refused("student", {"teacher": [broken]}, {}, out, Exception, "model.safetensors", "SHA-256", "fetch")


def test_rl_groups_must_fill_batches(home, out):
    parents = {"init": [home / "policy"], "problems": [home / "problems"]}
    settings = {"batch_size": 4, "accumulation": 3, "group_size": 8, "max_new_tokens": 8}
    refused("rl", parents, settings, out, ConfigError, "= 12 is not a multiple of group_size=8")


def test_rl_that_must_end_up_stale_is_refused_before_it_starts(home, out):
    parents = {"init": [home / "policy"], "problems": [home / "problems"]}
    settings = {"max_new_tokens": 8, "trainer_args": {"steps_per_generation": 4}}
    refused("rl", parents, settings, out, ConfigError, "up to 3 optimizer steps", "max_staleness=0", "=mixed")


def test_a_stage_that_turned_out_staler_than_promised_leaves_nothing_unless_accepted(home, out):
    def run(settings, parents, directory, progress):
        return Work(trace=provenance.online({0: 3, 1: 1}, parents.one("init").digest, 0))

    stage = replace(load_stage("rl"), run=run, check=lambda settings, parents: None)
    parents = {"init": [home / "policy"], "problems": [home / "problems"]}
    with pytest.raises(ProvenanceError, match=r"grpo promises on-policy .* 25\.0% of 4 rows make it mixed"):
        execute(stage, parents, {}, out)
    assert list(out.parent.iterdir()) == []
    record = execute(stage, parents, {"accept_provenance": "mixed"}, out)
    assert (record.trace.provenance, record.trace.on_policy_fraction) == ("mixed", 0.75)


def test_the_same_problems_may_not_be_measured_and_trained_on(home, tmp_path, out):
    record = read_record(home / "policy")
    trained = record.model_copy(update={"name": "trained"})

    from posttrain.artifacts import provenance

    problems = read_record(home / "problems")
    trained.trace = provenance.online({0: 1}, record.digest, 0)
    trained.parents = [ParentRef(role="problems", kind=problems.kind, id=problems.id, digest=problems.digest)]
    trained.ancestors = problems.family()
    assert contamination(trained, problems.digest) == {"trained.problems": "held out"}
    assert contamination(trained, "f" * 64) == {"trained.problems": "unchecked"}


def test_before_must_have_measured_the_same_problems(home, tmp_path, out):
    others = prepared(tmp_path / "others", [problem(n) for n in range(50, 58)])
    before = evaluated(tmp_path / "before", home / "policy", others, [1] * 8)
    parents = {"policy": [home / "policy"], "problems": [home / "problems"], "before": [before]}
    mentions = ["are of different problems", "measure both policies on the same"]
    refused("evaluate", parents, {"max_new_tokens": 8}, out, ContractError, *mentions)


@pytest.mark.parametrize(
    ("row", "error", "mentions"),
    [
        ({}, DataError, ["row 2 names no verifier"]),
        ({"verifier": "exakt"}, VerifierError, ["row 2: unknown verifier 'exakt'; did you mean 'exact'?"]),
        ({"verifier": "countdown", "reference": 5}, VerifierError, ["row 2: countdown"]),
        ({"verifier": "exact", "reference": "9"}, DataError, ["none of 2", "min_reward=0.5; lower it"]),
    ],
)
def test_verify_refuses_what_it_cannot_score_or_keep(tmp_path, out, row, error, mentions):
    first = {"verifier": "exact", "reference": "9"}
    rows = prepared(tmp_path / "rows", [demo(1, **first), demo(2, **row)], "trajectories")
    refused("verify", {"trajectories": [rows]}, {"min_reward": 0.5}, out, error, *mentions)


def test_verify_takes_conversations_that_end_alike_for_different_problems(tmp_path, out):
    rows = [
        {
            "prompt": [{"role": "user", "content": first}, {"role": "user", "content": "And?"}],
            "completion": [{"role": "assistant", "content": "1"}],
            "verifier": "exact",
            "reference": "1",
        }
        for first in "ab"
    ]
    given = prepared(tmp_path / "rows", rows, "trajectories")
    for settings in ({"max_per_problem": 1}, {"distinct": True}):
        made = execute(load_stage("verify"), {"trajectories": [given]}, settings, tmp_path / next(iter(settings)))
        assert (made.counts["kept"], made.counts["dropped"]) == (2, 0)


def test_verify_counts_the_unscorable_and_means_only_what_was_scored(tmp_path, out):
    rows = [
        demo(1, verifier="exact", reference="2"),
        demo(2, verifier="exact", reference="9"),
        demo(3, verifier="math", reference="no mathematics"),
    ]
    scored = prepared(tmp_path / "rows", rows, "trajectories")
    record = execute(load_stage("verify"), {"trajectories": [scored]}, {}, out)
    assert record.counts == {"trajectories": 3, "unscorable": 1, "kept": 3, "dropped": 0}
    assert record.metrics == {"mean_reward": 0.5, "kept_share": 1.0}
    assert [row["reward"] for row in read_trajectories(out)] == [1.0, 0.0, None]
    nothing = prepared(tmp_path / "nothing", rows[2:], "trajectories")
    unscorable = execute(load_stage("verify"), {"trajectories": [nothing]}, {}, tmp_path / "nothing_scored")
    assert "mean_reward" not in unscorable.metrics


@pytest.mark.parametrize("stage", ["sft", "rl", "student", "distill"])
def test_too_little_room_is_said_before_the_work(home, out, monkeypatch, stage):
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(contracts.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    roles = load_stage(stage).parents
    parents = {"init": "policy", "teacher": "policy", "problems": "problems", "data": "demos"}
    given = {role: [home / parents[role]] for role in roles if role in parents}
    refused(stage, given, {}, out, ContractError, "0.00 GiB free where about 0.00 GiB are needed", "larger disk")


def test_base_says_so_too_before_it_copies(home, out, monkeypatch):
    usage = shutil.disk_usage(home)
    monkeypatch.setattr(contracts.shutil, "disk_usage", lambda path: usage._replace(free=2**20 + 1))
    big = home / "big"
    shutil.copytree(home / "model", big, dirs_exist_ok=True)
    (big / "notes.json").write_bytes(b" " * 2**21)
    refused("base", {}, {"uri": str(big)}, out, ContractError, "GiB free where about", "free some")


def test_a_disk_too_small_is_refused_and_a_disk_that_fills_up_may_be_retried(home, small_disk, monkeypatch):
    teacher = {"teacher": [home / "policy"]}
    refused("student", teacher, {}, small_disk / "out", ContractError, str(small_disk), "free some")
    monkeypatch.setattr(contracts.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 0, 2**40))
    line = refused("student", teacher, {"max_ratio": 1}, small_disk / "out", StorageError, "no room left on the disk")
    assert str(small_disk / "out") in line
    assert StorageError.exit_code == RETRYABLE
