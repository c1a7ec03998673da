"""What distillation requires of its parents, by what is learned from, and the prompts that are sampled on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain.components.teacher_logits.stage import prompt_completion

from posttrain.artifacts import topk
from posttrain.artifacts.artifact import Artifact
from posttrain.artifacts.contracts import agree_on_facts, agree_on_text, renders
from posttrain.artifacts.policy import SHARED_FACTS
from posttrain.artifacts.problems import Problem, read_problems
from posttrain.artifacts.trajectories import read_trajectories
from posttrain.errors import ContractError, ProvenanceError
from posttrain.generation.prompts import check_prompts_fit
from posttrain.stage import Parents
from posttrain.training.hardware import global_batch
from posttrain.training.online import enough_prompts
from posttrain.training.privileged import privileged_prompt
from posttrain.training.supervised import check_rows

if TYPE_CHECKING:
    from posttrain.components.distill.stage import DistillSettings


def check_online(settings: DistillSettings, parents: Parents) -> None:
    """Logits are compared on rollouts: prompts that fit, and teachers that read texts and predict tokens alike."""
    init, teachers = parents.one("init"), parents.all("teacher")
    names = [f"teacher_{number}" for number in range(1, len(teachers) + 1)] if len(teachers) > 1 else ["teacher"]
    for name, teacher in zip(names[: len(teachers)], teachers, strict=True):
        agree_on_text(init, teacher, ("init", name), settings.accept_differences)
        _same_vocabulary(init, teacher, name)
    if data := parents.maybe("data"):
        prompt_completion(data, "distill")
        renders(init.record.facts.get("chat_template"), read_trajectories(data.path)[0]["completion"], "distill")
    problems = prompts(settings, parents)
    enough_prompts(len(problems), global_batch(settings))
    check_prompts_fit(init, problems, settings.max_new_tokens)
    if settings.method == "self_distillation":
        check_prompts_fit(init, shown(settings, parents), settings.max_new_tokens)
    routed(problems, settings.routes, max(len(teachers), 1))


def check_sequences(settings: DistillSettings, parents: Parents) -> None:
    """Only texts are learned from, so a teacher may have another tokenizer; but the texts must be the teachers'."""
    init, data = parents.one("init"), parents.one("data")
    rows = read_trajectories(data.path)
    check_rows(data.record.facts.get("shape"), init.record.facts.get("chat_template"), rows)
    digests = [teacher.digest for teacher in parents.all("teacher")]
    foreign = sum(row.get("sampler") not in digests for row in rows)
    if foreign and settings.accept_provenance != "off-policy":
        raise ProvenanceError(
            f"distill: {foreign} of {len(rows)} rows were not sampled by the teacher "
            f"({', '.join(digest[:12] for digest in digests)}); give the teacher's rollouts, or accept others with "
            "accept_provenance=off-policy"
        )


def check_stored(settings: DistillSettings, parents: Parents) -> None:
    """The stored tokens must be the student's own."""
    init, data = parents.one("init"), parents.one("data")
    mine, facts = init.record.facts, data.record.facts
    if "teacher" not in facts or topk.IDS_FILE not in data.record.files:
        raise ContractError("distill: data holds no teacher's distributions; make it with the stage teacher_logits")
    others = [teacher.digest[:12] for teacher in parents.all("teacher") if teacher.digest != facts["teacher"]]
    if others:
        raise ContractError(
            f"distill: data holds the distributions of {str(facts['teacher'])[:12]}, not of the teacher {others[0]}; "
            "store this one's, or leave the teacher out"
        )
    theirs = {fact: facts[f"teacher_{fact}"] for fact in SHARED_FACTS}
    agree_on_facts(mine, theirs, ("init", "the teacher of data"), settings.accept_differences)
    if int(mine["vocabulary"]) < int(facts["teacher_vocabulary"]):
        raise ContractError(
            f"distill: data's teacher predicts {facts['teacher_vocabulary']} tokens, init {mine['vocabulary']}; use "
            "policies of one vocabulary, or method=sequence_distillation"
        )
    if settings.max_length > int(facts["max_length"]):
        raise ContractError(
            f"distill: max_length={settings.max_length}, but data was stored up to {facts['max_length']}; lower it, or "
            "store longer rows"
        )


def prompts(settings: DistillSettings, parents: Parents) -> list[Problem]:
    """What the student samples on: problems, or the prompts of fixed trajectories."""
    if problems := parents.maybe("problems"):
        return read_problems(problems.path, settings.slices)
    rows = read_trajectories(parents.one("data").path)
    return [
        Problem(id=f"row {number}", prompt=row["prompt"], verifier="", slice=row.get("slice") or "all")
        for number, row in enumerate(rows, start=1)
    ]


def shown(settings: DistillSettings, parents: Parents) -> list[Problem]:
    """The same prompts as the teacher of a self-distillation sees them, with the row's completion."""
    answers = (row["completion"] for row in read_trajectories(parents.one("data").path))
    texts = ("".join(m["content"] for m in answer) if isinstance(answer, list) else answer for answer in answers)
    return [
        problem.model_copy(update={"prompt": privileged_prompt(problem.prompt, text, settings.teacher_prompt)})
        for problem, text in zip(prompts(settings, parents), texts, strict=True)
    ]


def routed(problems: list[Problem], routes: dict[str, int], teachers: int) -> list[int]:
    """The index of each problem's teacher.

    Raises:
        ContractError: with several teachers a slice has none, or a route leads to a teacher that is not there.
    """
    for name, number in routes.items():
        if number > teachers:
            raise ContractError(
                f"distill: routes.{name}={number}, but there are {teachers} teachers; number them from 1"
            )
    missing = sorted({problem.slice for problem in problems} - routes.keys())
    if missing and teachers > 1:
        raise ContractError(
            f"distill: {teachers} teachers, but routes has none for {', '.join(missing)}; give every slice the number "
            "of its teacher"
        )
    return [routes.get(problem.slice, 1) - 1 for problem in problems]


def _same_vocabulary(init: Artifact, teacher: Artifact, name: str) -> None:
    mine, theirs = (policy.record.facts.get("vocabulary") for policy in (init, teacher))
    if mine != theirs:
        raise ContractError(
            f"distill: {name} predicts {theirs} tokens, init {mine}; use policies of one vocabulary (padding of the "
            "embeddings included), or method=sequence_distillation"
        )
