"""Who becomes the champion, who does not and why, and the way back."""

import pytest

from posttrain.errors import ConfigError
from tests.registry.conftest import WHEN

pytestmark = pytest.mark.xdist_group("s3")


def registered(registry, policy, decision, **how):
    return registry.register("student", policy, decision, WHEN, **how)


def champions(registry):
    index = registry.index("student")
    return index.champion, [promotion.version for promotion in index.promotions]


@pytest.fixture
def three(registry, policies, passed, proven):
    """v1, v2 and v3, each proven against the one before."""
    for policy, decision in zip(policies, [passed, proven(policies[0]), proven(policies[1])], strict=True):
        assert registered(registry, policy, decision).promoted
    return registry


def test_the_first_version_is_the_champion_whatever_it_was_compared_with(registry, policies, proven):
    change = registered(registry, policies[0], proven(policies[2]))
    assert (change.before, change.after, change.why_not) == (None, change.version, "")


def test_a_version_that_was_compared_with_the_champion_replaces_it(three):
    assert champions(three) == (3, [1, 2, 3])
    promotion = three.index("student").promotions[-1]
    assert promotion.decision == three.champion("student").decision
    assert promotion.reason == "gain in pass@1 +0.250"


@pytest.mark.parametrize("known", [True, False])
def test_a_version_that_was_compared_with_another_is_registered_only(registry, policies, passed, proven, known):
    registered(registry, policies[0], passed)
    change = registered(registry, policies[1], proven(policies[2]) if known else passed)
    assert (change.version.version, change.promoted, change.after.version) == (2, False, 1)
    compared = f"with {policies[2].digest[:12]}" if known else "with a policy that it does not name"
    assert f"the gate compared it {compared}, and the champion is v1 ({policies[0].digest[:12]})" in change.why_not
    assert f"evaluate and gate it against {registry.policy_uri('student', 1)}" in change.why_not
    assert f"posttrain rollback student --registry {registry.uri} --to 2" in change.why_not
    assert champions(registry) == (1, [1])


def test_a_champion_that_changed_meanwhile_is_not_replaced(registry, policies, passed, proven, monkeypatch):
    registered(registry, policies[0], passed)
    publish = registry._publish

    def slowly(policy, uri):
        publish(policy, uri)
        registry._publish = publish
        registered(registry, policies[1], proven(policies[0]))

    monkeypatch.setattr(registry, "_publish", slowly)
    change = registered(registry, policies[2], proven(policies[0]))
    assert (change.version.version, change.before.version, change.promoted) == (2, 3, False)
    assert "the champion is v3" in change.why_not


def test_a_version_that_waited_becomes_champion_once_it_is_proven(registry, policies, passed, proven):
    registered(registry, policies[0], passed)
    registered(registry, policies[1], passed)
    assert registered(registry, policies[1], proven(policies[0])).promoted
    assert [version.version for version in registry.index("student").versions] == [1, 2]


def test_promotion_can_be_forced_and_withheld(registry, policies, passed):
    assert not registered(registry, policies[0], passed, promote="never").promoted
    assert champions(registry) == (None, [])
    with pytest.raises(ConfigError, match="no version is champion; name a version by --to"):
        registry.roll_back("student")
    assert registered(registry, policies[1], passed).promoted
    assert registered(registry, policies[2], passed, promote="always").promoted
    assert champions(registry) == (3, [2, 3])


def test_rolling_back_goes_to_the_champion_before_and_then_to_the_one_before_that(three):
    change = three.roll_back("student", reason="repeats itself")
    assert (change.before.version, change.after.version) == (3, 2)
    assert three.index("student").promotions[-1].reason == "repeats itself"
    assert three.roll_back("student").after.version == 1
    with pytest.raises(ConfigError, match="no champion before v1; name a version by --to"):
        three.roll_back("student")
    assert champions(three) == (1, [1, 2, 3, 2, 1])


def test_after_rolling_back_the_next_champion_has_the_one_before_it(three, policies, passed, proven):
    three.roll_back("student", to=1)
    assert registered(three, policies[2], proven(policies[0])).promoted
    assert three.roll_back("student").after.version == 1


def test_any_version_can_be_made_champion_again(three):
    three.roll_back("student", to=1)
    assert three.roll_back("student", to=3).after.version == 3
    assert three.roll_back("student").after.version == 1


def test_a_dry_run_changes_nothing(three):
    assert three.roll_back("student", dry_run=True).after.version == 2
    assert champions(three) == (3, [1, 2, 3])


@pytest.mark.parametrize(
    ("model", "to", "said"),
    [
        ("studnet", None, "no model 'studnet' is registered; did you mean 'student'?"),
        ("student", 7, "student: no version 7; registered: 1, 2, 3"),
    ],
)
def test_what_cannot_be_rolled_back_is_said_in_one_line(three, model, to, said):
    with pytest.raises(ConfigError) as raised:
        three.roll_back(model, to)
    assert str(raised.value).endswith(said)


def test_an_empty_registry_says_so(registry):
    with pytest.raises(ConfigError, match="no model 'student' is registered; nothing else is registered there"):
        registry.roll_back("student")
