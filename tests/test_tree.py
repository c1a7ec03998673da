"""The tree is what the design says: imports point one way, every room has its parts, nothing heavy comes early."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from posttrain.components.catalogue import load_stage, names

from posttrain.generation.settings import SamplingSettings
from posttrain.settings import Settings
from posttrain.taxonomy import METHODS, Kind

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "trl", "kfp", "datasets", "peft", "accelerate"}

# The modules that are for a heavy library, and so imported only by what needs it.
MAY_IMPORT_AT_TOP = {
    "posttrain/generation/batch.py",
    "posttrain/generation/decode.py",
    "posttrain/generation/process.py",
    "posttrain/generation/scoring.py",
    "posttrain/generation/transformers.py",
    "posttrain/training/anchoring.py",
    "posttrain/training/callbacks.py",
    "posttrain/training/parts.py",
    "posttrain/training/plain.py",
    "posttrain/training/process_trainer.py",
    "posttrain/training/snapshot.py",
    "posttrain/worlds/countdown_base.py",
}


def modules(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(file, top_only=False):
    """Full names of what a module imports; `from a import b` gives a.b, which is a module or a name in one."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(file):
    return file.relative_to(ROOT).as_posix()


def within(name, *packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


def offenders(files, forbidden, top_only=False):
    return [f"{relative(file)}: {name}" for file in files for name in imported(file, top_only) if forbidden(name)]


def test_the_library_imports_no_kfp_and_nothing_above_it():
    below = [file for file in modules("posttrain") if not within(".".join(file.relative_to(ROOT).parts), "posttrain.cli", "posttrain.report")]  # fmt: skip # noqa: E501
    assert len(below) > 50
    assert offenders(below, lambda name: within(name, "kfp", "posttrain.components", "posttrain.pipelines")) == []


def test_components_import_no_pipelines():
    assert offenders(modules("components"), lambda name: within(name, "posttrain.pipelines")) == []


def test_artifacts_and_taxonomy_use_nothing_above_them():
    allowed = ("posttrain.artifacts", "posttrain.errors", "posttrain.taxonomy")
    above = lambda name: within(name, "posttrain") and not within(name, *allowed)  # noqa: E731
    assert offenders(modules("posttrain/artifacts"), above) == []
    for alone in ("posttrain/taxonomy.py", "posttrain/errors.py"):
        assert offenders([ROOT / alone], lambda name: within(name, "posttrain")) == []


@pytest.mark.parametrize("room", names())
def test_every_room_has_its_parts(room):
    folder = ROOT / "components" / room
    for part in ("component.py", "stage.py", "README.md", "__init__.py"):
        assert (folder / part).stat().st_size > 0, part
    stage = load_stage(room)
    assert (stage.name, stage.image in ("control", "train", "sample")) == (room, True)
    assert issubclass(stage.settings, Settings)
    assert isinstance(stage.makes, Kind) or callable(stage.makes)


def test_what_samples_by_vllm_if_asked_runs_where_vllm_is():
    stages = map(load_stage, names())
    assert [one.name for one in stages if issubclass(one.settings, SamplingSettings) and one.image != "sample"] == []


def test_the_work_of_a_stage_imports_no_kfp():
    assert offenders(ROOT.glob("components/*/stage.py"), lambda name: within(name, "kfp")) == []


def test_a_face_imports_kfp_and_its_image_only_and_is_short():
    for file in ROOT.glob("components/*/component.py"):
        assert set(imported(file, top_only=True)) <= {
            "kfp.dsl",
            "posttrain.components.images.CONTROL",
            "posttrain.components.images.TRAIN",
        }
        assert len(file.read_text(encoding="utf-8").splitlines()) < 80


def test_heavy_libraries_are_imported_where_they_are_used():
    faces = {relative(file) for file in [*ROOT.glob("components/*/component.py"), *modules("pipelines")]}
    others = [f for f in modules("posttrain", "components") if relative(f) not in MAY_IMPORT_AT_TOP | faces]
    assert offenders(others, lambda name: within(name, *HEAVY), top_only=True) == []
    kfp_only = [ROOT / name for name in faces]
    assert offenders(kfp_only, lambda name: within(name, *HEAVY - {"kfp"}), top_only=True) == []


def test_control_stages_need_no_torch():
    control = [f"posttrain.components.{name}.stage" for name in names() if load_stage(name).image == "control"]
    code = f"import sys, importlib; [importlib.import_module(name) for name in {control}]; print(sorted({HEAVY} & set(sys.modules)))"  # noqa: E501
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_pyproject_lists_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {"posttrain": "posttrain", "components": "posttrain.components", "pipelines": "posttrain.pipelines"}
    packages = [
        ".".join([package, *file.parent.relative_to(ROOT / folder).parts])
        for folder, package in found.items()
        for file in (ROOT / folder).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(packages)
    folders = {file.parent for file in modules("posttrain", "components", "pipelines")}
    assert [relative(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_methods_and_stages_name_each_other():
    assert {method.stage for method in METHODS.values()} == set(names())
    for name in names():
        stage = load_stage(name)
        field = stage.settings.model_fields.get("method")
        offered = set(field.annotation.__args__) if field else {stage.method_of(None)}
        assert offered == {method.name for method in METHODS.values() if method.stage == name}


def test_what_learns_has_all_three_axes():
    for method in METHODS.values():
        learns = method.provenance is not None
        assert (method.interface is not None) == learns
        assert not learns or (method.role and method.paper)


def test_help_needs_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "posttrain.cli.main", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines() if "|" in line}
    assert "typer" in loaded
    assert loaded & (HEAVY | {"pyarrow", "numpy", "pydantic", "boto3", "yaml", "jinja2"}) == set()
    for command_name in ("run", "compile", "recipes", "lineage", "report", "world"):
        assert command_name in ended.stdout
