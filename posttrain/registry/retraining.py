"""What repeated training remembers of a model, beside its versions in the registry.

<registry>/<model>/retraining/data/<data version>.json   what came of training on it
<registry>/<model>/retraining/runs/<run>.json            what a run set out to do, until it has ended
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from posttrain.errors import DataError
from posttrain.storage import read_text, write_text
from posttrain.storage.store import open_store

Event = Literal["registered", "not champion", "fail", "undecided", "nothing new", "ended early"]
Model = TypeVar("Model", bound=BaseModel)


class Outcome(BaseModel):
    """What came of training on a data version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(description="the data version, name@content")
    run: str
    event: Event
    reason: str = Field(description="the gate's")
    candidate: str = Field(description="digest")
    version: int = Field(default=0, description="as which it is registered; 0 = it is not")
    when: datetime
    metrics: dict[str, float] = Field(default_factory=dict, description="the decision's")


class Plan(BaseModel):
    """What a run set out to do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    data: str = Field(default="", description="the data version; empty = nothing new")
    champion: int = Field(default=0, description="the version that it starts from; 0 = none is registered")
    reason: str


class Retraining:
    """A model's memory; every method raises StorageError if the store failed."""

    def __init__(self, registry: str, model: str) -> None:
        self.uri = f"{registry.rstrip('/')}/{model}/retraining"

    def outcome(self, data: str) -> Outcome | None:
        """What came of a data version; None if no run has come to a decision."""
        return self._read(Outcome, f"data/{data}.json")

    def conclude(self, outcome: Outcome) -> None:
        """The data version is done with."""
        self._write(outcome, f"data/{outcome.data}.json")

    def plan(self, run: str) -> Plan | None:
        """What a run set out to do; None if it never came so far."""
        return self._read(Plan, f"runs/{run}.json")

    def begin(self, plan: Plan) -> None:
        """Set it down."""
        self._write(plan, f"runs/{plan.run}.json")

    def forget(self, run: str) -> None:
        """The run has ended and it was said."""
        open_store(self.uri).delete([f"runs/{run}.json"])

    def _read(self, model: type[Model], name: str) -> Model | None:
        text = read_text(f"{self.uri}/{name}")
        try:
            return None if text is None else model.model_validate_json(text)
        except ValidationError as error:
            told = str(error).splitlines()[0]
            raise DataError(f"{self.uri}/{name}: not as it was written ({told}); remove it") from None

    def _write(self, what: BaseModel, name: str) -> None:
        write_text(f"{self.uri}/{name}", what.model_dump_json(indent=1) + "\n")
