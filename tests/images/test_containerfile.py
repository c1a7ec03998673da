"""The Containerfile read as text: what every cluster that is to run the images counts on."""

import re
import tomllib
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
IMAGES = {name: extras.split(",") for name, extras in re.findall(r"^EXTRAS_(\w+) := (\S+)$", MAKEFILE, re.MULTILINE)}
CONSTRAINTS = {name: "constraints.txt" for name in IMAGES}
CONSTRAINTS |= re.findall(r"^CONSTRAINTS_(\w+) := (\S+)$", MAKEFILE, re.MULTILINE)


def stages():
    """Stage → its instructions, as (word, rest); a stage without a name is ""."""
    text = re.sub(r"\\\n", " ", (ROOT / "images/Containerfile").read_text(encoding="utf-8"))
    found = {"head": []}
    for line in filter(None, (line.strip() for line in text.splitlines() if not line.startswith("#"))):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found[rest.partition(" AS ")[2]] = []
        found[list(found)[-1]].append((word, rest))
    return found


STAGES = stages()
EVERY = [instruction for each in STAGES.values() for instruction in each]


def words(word, instructions=EVERY):
    return [rest for each, rest in instructions if each == word]


def test_every_base_is_a_build_argument_or_an_earlier_stage():
    known = {f"${{{argument.partition('=')[0]}}}" for argument in words("ARG", STAGES["head"])}
    assert {"${BASE}", "${BUILD}"} <= known
    for stage, instructions in STAGES.items():
        bases = [rest.split(" ")[0] for rest in words("FROM", instructions)]
        sources = re.findall(r"from=(\w+)", " ".join(rest for _, rest in instructions))
        assert {*bases, *sources} <= known
        known.add(stage)


def test_the_image_runs_as_a_number_that_is_not_root_and_holds_nothing_that_installs():
    last = STAGES[""]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", words("USER", last)[-1])
    assert words("RUN", last) == []
    assert words("COPY", last) == ["--from=code /code /"]
    assert words("FROM", last) == ["dependencies"]
    assert words("FROM", STAGES["dependencies"]) == ["${BASE} AS dependencies"]


def test_nothing_comes_from_the_network_but_by_pip_in_a_stage_that_says_so():
    assert words("ADD") == []
    for stage, instructions in STAGES.items():
        for command in words("RUN", instructions):
            assert not re.search(r"\b(curl|wget|git|apt-get)\b", command)
            offline = "--no-index" in command or " pip " not in command
            assert offline or (stage in ("tools", "dependencies") and "type=secret,id=pip" in command)


def test_no_secret_and_no_index_is_written_down():
    assert "PIP_INDEX_URL" in words("ARG")
    assert not [each for each in EVERY if re.search(r"https?://", each[1])]
    assert not [each for each in words("ENV") if "PIP_INDEX_URL" in each]


def test_the_code_is_behind_the_dependencies_which_only_versions_change():
    copied = [line.rpartition(" ")[0] for line in words("COPY", STAGES["dependencies"])]
    assert copied == ["--from=tools /src/requirements.txt", "images/slim.py"]
    before = [list(takewhile(lambda each: each[0] != "RUN", STAGES[stage])) for stage in ("tools", "dependencies")]
    assert not re.search(r"\b(posttrain|components|pipelines) ", str([words("COPY", each) for each in before]))


def test_what_is_copied_is_there_and_not_kept_from_the_builder():
    rules = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in ("", "#")
    ]
    assert rules[0] == "*"
    copied = [each for line in words("COPY") if "--from" not in line for each in line.split(" ")[:-1]]
    assert "posttrain" in copied and "${CONSTRAINTS}" in copied
    for each in {*copied, *CONSTRAINTS.values()} - {"${CONSTRAINTS}"}:
        assert (ROOT / each).exists()
        assert any(fnmatch(each, rule[1:]) for rule in rules if rule.startswith("!")), each


@pytest.mark.parametrize("place", ["images/Containerfile", "images/README.md"])
def test_what_is_said_of_the_images_is_what_is_made(place):
    assert set(IMAGES) == {"control", "train", "rollout"}
    lines = (ROOT / place).read_text(encoding="utf-8").splitlines()
    for name, extras in IMAGES.items():
        assert set(extras) <= set(PROJECT["optional-dependencies"])
        assert any(name in line and ",".join(extras) in re.split(r"[\s=`|]+", line) for line in lines), (
            f"{place}: {name}"
        )
    assert not {"train", "vllm"} & set(IMAGES["control"])


@pytest.mark.parametrize("image", IMAGES)
def test_every_package_that_is_asked_for_is_pinned_at_a_version_that_does(image):
    pins = {}
    for line in (ROOT / CONSTRAINTS[image]).read_text(encoding="utf-8").splitlines():
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({"python_version": "3.11", "python_full_version": "3.11.9"}):
            pins[pin.name] = next(iter(pin.specifier)).version
    wanted = PROJECT["dependencies"] + [
        each for extra in IMAGES[image] for each in PROJECT["optional-dependencies"][extra]
    ]
    for requirement in map(Requirement, wanted):
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        assert name in pins, f"{name} of {image} is not in {CONSTRAINTS[image]}"
        assert requirement.specifier.contains(pins[name], prereleases=True), f"{requirement} but {pins[name]}"
