"""Each component's KFP face, as compiled, against its stage: the stage's settings own names, types and defaults."""

import types
import typing

import pytest
import yaml
from kfp import compiler
from posttrain.components.catalogue import load_stage, names
from posttrain.components.images import CONTROL, TRAIN
from posttrain.pipelines.compiler import load_component

from posttrain.recipes.execute import SHARED_SETTINGS
from posttrain.taxonomy import Kind

pytestmark = pytest.mark.xdist_group("kfp")

KFP_TYPES = {
    bool: "BOOLEAN",  # before int, of which it is a subclass
    int: "NUMBER_INTEGER",
    float: "NUMBER_DOUBLE",
    str: "STRING",
    dict: "STRUCT",
    list: "LIST",
}
TITLES = {
    Kind.POLICY: "system.Model",
    Kind.PROBLEMS: "system.Dataset",
    Kind.TRAJECTORIES: "system.Dataset",
    Kind.EVALUATION: "system.Dataset",
    Kind.REWARD_MODEL: "system.Model",
    Kind.PROCESS_REWARD_MODEL: "system.Model",
    Kind.DIAGNOSIS: "system.Artifact",
    Kind.RECOMMENDATION: "system.Artifact",
    Kind.DECISION: "system.Artifact",
    Kind.REGISTRATION: "system.Artifact",
    Kind.REPORT: "system.Artifact",
}
NOT_SETTINGS = {"settings", "nodes"}
COLLECTED = {"contrast": {"candidates"}}  # a ParallelFor's artifacts arrive as a list
ANY_KIND = {"recall": "system.Artifact"}


@pytest.fixture(scope="module", params=names())
def face(request, tmp_path_factory):
    """A stage and its compiled component."""
    file = tmp_path_factory.mktemp("faces") / f"{request.param}.yaml"
    compiler.Compiler().compile(load_component(request.param), str(file))
    spec = yaml.safe_load(file.read_text())
    return load_stage(request.param), spec["components"][f"comp-{spelt(request.param)}"], spec


def spelt(name):
    """A stage's name as KFP writes it."""
    return name.replace("_", "-")


def parameters(component):
    return component["inputDefinitions"]["parameters"]


def test_everything_is_described(face):
    stage, component, spec = face
    described = {
        f"{definitions} {name}": entry.get("description", "")
        for definitions in ("inputDefinitions", "outputDefinitions")
        for group in component.get(definitions, {}).values()
        for name, entry in group.items()
    }
    assert [name for name, text in described.items() if len(text) < 6] == []
    assert load_component(stage.name).description
    assert spec["pipelineInfo"]["name"] == spelt(stage.name)


def test_parameters_are_settings_with_their_types_and_defaults(face):
    stage, component, _ = face
    fields = stage.settings.model_fields
    for name, entry in parameters(component).items():
        if name in NOT_SETTINGS:
            continue
        kfp_type = KFP_TYPES[plain_type(fields[name].annotation)]
        assert (name, entry["parameterType"]) == (name, kfp_type)
        assert entry.get("isOptional", False) is not fields[name].is_required()
        if not fields[name].is_required():
            default = fields[name].get_default(call_default_factory=True)
            assert (name, entry["defaultValue"]) == (name, "" if default is None else default)


def plain_type(annotation):
    """`Literal["a", "b"]`, `dict[str, Any]` and `Role | None` as the type that carries them."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return type(typing.get_args(annotation)[0])
    if origin is types.UnionType or origin is typing.Union:
        return plain_type(next(part for part in typing.get_args(annotation) if part is not type(None)))
    return next(kind for kind in KFP_TYPES if issubclass(origin or annotation, kind))


def test_every_other_setting_is_reachable(face):
    _, component, _ = face
    assert parameters(component)["settings"]["defaultValue"] == {}
    assert parameters(component)["name"]["defaultValue"] == ""


def test_what_trains_can_be_told_where_its_checkpoints_go(face):
    stage, component, _ = face
    trains = stage.trains or stage.name == "follow"
    assert parameters(component).keys() & set(SHARED_SETTINGS) == (set(SHARED_SETTINGS) if trains else set())


def test_what_trains_can_be_told_to_do_it_on_several_nodes(face):
    stage, component, _ = face
    trains = stage.trains or stage.name == "follow"
    assert parameters(component).get("nodes", {}).get("defaultValue") == ({} if trains else None)


def test_a_stage_without_choice_of_settings_requires_what_they_require(face):
    stage, component, _ = face
    required = {name for name, field in stage.settings.model_fields.items() if field.is_required()}
    assert {name for name, entry in parameters(component).items() if not entry.get("isOptional")} == required


def test_input_artifacts_are_the_parents(face):
    stage, component, _ = face
    expected = {}
    for role, spec in stage.parents.items():
        listed = spec.most > 1 and role not in COLLECTED.get(stage.name, ())
        many = [f"{role}_{number}" for number in range(1, spec.most + 1)] if listed else [role]
        for number, name in enumerate(many):
            expected[name] = (TITLES[spec.kind], spec.required and number == 0 and not spec.shared)
    given = component["inputDefinitions"].get("artifacts", {})
    found = {
        name: (entry["artifactType"]["schemaTitle"], not entry.get("isOptional", False))
        for name, entry in given.items()
    }
    assert found == expected


def test_outputs_are_the_artifact_its_page_and_what_was_measured(face):
    stage, component, _ = face
    outputs = component["outputDefinitions"]["artifacts"]
    titles = {name: entry["artifactType"]["schemaTitle"] for name, entry in outputs.items()}
    kinds = [stage.makes] if isinstance(stage.makes, Kind) else [Kind.PROBLEMS, Kind.TRAJECTORIES]
    assert titles.pop("metrics", None) == ("system.Metrics" if stage.measures else None)
    assert titles.pop("page") == "system.HTML"
    assert titles == {stage.output: ANY_KIND.get(stage.name, TITLES[kinds[0]])}


def test_the_image_is_the_one_that_the_stage_needs(face):
    stage, _, spec = face
    container = spec["deploymentSpec"]["executors"][f"exec-{spelt(stage.name)}"]["container"]
    assert container["image"] == {"control": CONTROL, "train": TRAIN, "sample": TRAIN}[stage.image]


def test_nothing_is_installed_at_run_time(face):
    stage, _, spec = face
    command = spec["deploymentSpec"]["executors"][f"exec-{spelt(stage.name)}"]["container"]["command"]
    assert "pip" not in " ".join(command[:-1])
