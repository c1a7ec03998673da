"""Kubeflow Pipelines' API: how it is reached, what is asked again, and what its refusals mean."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from posttrain.errors import ConfigError, ServerError
from posttrain.storage.retries import GaveUp, Retries

# The SDK's own variables, and where its projected service-account token lies in a pod.
ENDPOINT, TOKEN_FILE = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH"
TOKEN, COOKIE, NAMESPACE, CA, PATIENCE = (
    f"POSTTRAIN_KFP_{name}" for name in ("TOKEN", "COOKIE", "NAMESPACE", "CA_BUNDLE", "PATIENCE")
)
_PROJECTED = Path("/var/run/secrets/kubeflow/pipelines/token")
_TIMEOUT = 30  # seconds of one request
_GOING = ("PENDING", "RUNNING", "PAUSED", "CANCELING")  # states of a run that has not ended
_PAGE = 20  # runs and versions come with their whole pipelines: hundreds at once are too much for a server
Result = TypeVar("Result")

# gRPC's code in a refusal, or else HTTP's status → what to do.
_REMEDIES = {
    401: "the server wants credentials: set POSTTRAIN_KFP_TOKEN, POSTTRAIN_KFP_COOKIE or KF_PIPELINES_SA_TOKEN_PATH",
    403: "these credentials may not do this: bind them to a role for pipelines in the namespace",
    404: "check the endpoint (KF_PIPELINES_ENDPOINT) and the namespace",
}


class Refused(ConfigError):
    """The server understood, and does not do it."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Away(ServerError):
    """It has not done what was asked for as long as there was patience."""


class Connection(BaseModel):
    """How a server is reached. Credentials are in no message."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field(default="", description="URL of the API (KF_PIPELINES_ENDPOINT)")
    namespace: str = Field(default="", description="the profile's, on a multi-user Kubeflow; empty = single-user")
    token: SecretStr = Field(default=SecretStr(""), description="a bearer token")
    token_file: str = Field(default="", description="a file with one, read again for each request, as it is renewed")
    cookie: SecretStr = Field(default=SecretStr(""), description="a session's, as a browser has behind Dex")
    ca_bundle: str = Field(default="", description="certificates to trust")
    patience: float = Field(default=60, ge=0, description="seconds for which a request that fails is tried again")


def from_environment(environment: Mapping[str, str], endpoint: str = "", namespace: str = "") -> Connection:
    """The connection that the variables say; arguments win.

    Raises:
        ConfigError: no endpoint is named, or it is no URL.
    """
    given = endpoint or environment.get(ENDPOINT, "")
    if not given.startswith(("http://", "https://")):
        raise ConfigError(f"endpoint {given!r}: give the URL of Kubeflow Pipelines' API by --endpoint or {ENDPOINT}")
    projected = str(_PROJECTED) if _PROJECTED.is_file() else ""
    return Connection(
        endpoint=given.rstrip("/"),
        namespace=namespace or environment.get(NAMESPACE, ""),
        token=SecretStr(environment.get(TOKEN, "")),
        token_file=environment.get(TOKEN_FILE, projected),
        cookie=SecretStr(environment.get(COOKIE, "")),
        ca_bundle=environment.get(CA, ""),
        patience=_seconds(environment.get(PATIENCE, "60")),
    )


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        raise ConfigError(f"{PATIENCE}={text!r}: give seconds, as 60") from None


class Server:
    """A server's API, a method for each thing that is asked of it.

    Every method raises Refused where the server says no, and ServerError where it cannot be reached for `patience`.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    # --- pipelines ---

    def pipeline(self, name: str) -> Any | None:
        """The pipeline of that name."""
        found = self._all(
            self._api("Pipeline").pipeline_service_list_pipelines, "pipelines", [_called(name)], **self._here
        )
        return next((each for each in found if each.display_name == name), None)

    def pipelines(self) -> list[Any]:
        """All of the namespace."""
        return list(self._all(self._api("Pipeline").pipeline_service_list_pipelines, "pipelines", **self._here))

    def versions(self, pipeline_id: str) -> list[Any]:
        """A pipeline's, the newest first."""
        ask = self._api("Pipeline").pipeline_service_list_pipeline_versions
        found = self._all(ask, "pipeline_versions", pipeline_id=pipeline_id, sort_by="created_at desc")
        return list(found)

    def create_pipeline(self, name: str, description: str) -> Any:
        """One without a version."""
        body = self.models.V2beta1Pipeline(display_name=name, description=description, **self._here)
        return self._once(self._api("Pipeline").pipeline_service_create_pipeline, pipeline=body)

    def create_version(self, pipeline_id: str, name: str, description: str, package: Path) -> Any:
        """A version out of compiled YAML."""
        ask = self._api("PipelineUpload").upload_pipeline_version
        return self._once(ask, uploadfile=str(package), name=name, pipelineid=pipeline_id, description=description)

    def delete_pipeline(self, pipeline_id: str) -> None:
        """A pipeline and its versions; its runs stay."""
        for version in self.versions(pipeline_id):
            ask = self._api("Pipeline").pipeline_service_delete_pipeline_version
            self._delete(ask, pipeline_id=pipeline_id, pipeline_version_id=version.pipeline_version_id)
        self._delete(self._api("Pipeline").pipeline_service_delete_pipeline, pipeline_id=pipeline_id)

    # --- experiments, recurring runs, runs ---

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is made if it is not there."""
        found = self._all(
            self._api("Experiment").experiment_service_list_experiments, "experiments", [_called(name)], **self._here
        )
        if known := next((each for each in found if each.display_name == name), None):
            return str(known.experiment_id)
        body = self.models.V2beta1Experiment(display_name=name, **self._here)
        made = self._once(self._api("Experiment").experiment_service_create_experiment, experiment=body)
        return str(made.experiment_id)

    def recurring_runs(self) -> list[Any]:
        """All of the namespace."""
        ask = self._api("RecurringRun").recurring_run_service_list_recurring_runs
        return list(self._all(ask, "recurring_runs", **self._here))

    def create_recurring_run(self, **fields: Any) -> Any:
        """See V2beta1RecurringRun for the fields."""
        body = self.models.V2beta1RecurringRun(**fields)
        return self._once(self._api("RecurringRun").recurring_run_service_create_recurring_run, recurring_run=body)

    def is_at_work(self, recurring_run_id: str) -> bool:
        """Whether a run that it started has not ended."""
        mine = {"operation": "EQUALS", "key": "recurring_run_id", "stringValue": recurring_run_id}
        going = {"operation": "IN", "key": "state", "stringValues": {"values": list(_GOING)}}
        found = self._all(self._api("Run").run_service_list_runs, "runs", [mine, going], **self._here)
        return next(found, None) is not None

    def disable_recurring_run(self, recurring_run_id: str) -> None:
        """It fires no more; its runs go on."""
        ask = self._api("RecurringRun").recurring_run_service_disable_recurring_run
        self._ask(ask, recurring_run_id=recurring_run_id)

    def delete_recurring_run(self, recurring_run_id: str) -> None:
        """It fires no more. Kubernetes removes the pods of its runs with it, so none of them may be at work."""
        ask = self._api("RecurringRun").recurring_run_service_delete_recurring_run
        self._delete(ask, recurring_run_id=recurring_run_id)

    def create_run(self, **fields: Any) -> Any:
        """See V2beta1Run for the fields."""
        return self._once(self._api("Run").run_service_create_run, run=self.models.V2beta1Run(**fields))

    def run(self, run_id: str) -> Any:
        """One run."""
        return self._ask(self._api("Run").run_service_get_run, run_id=run_id)

    def runs(self, most: int) -> list[Any]:
        """The newest runs of the namespace."""
        found = self._all(self._api("Run").run_service_list_runs, "runs", sort_by="created_at desc", **self._here)
        return [run for run, _ in zip(found, range(most), strict=False)]

    # --- how it is asked ---

    @property
    def _here(self) -> dict[str, Any]:
        return {"namespace": self.connection.namespace} if self.connection.namespace else {}

    @property
    def models(self) -> Any:
        """The API's own classes, for what is given to it."""
        import kfp_server_api

        return kfp_server_api

    @cached_property
    def _client(self) -> Any:
        configuration = self.models.Configuration(host=self.connection.endpoint)
        configuration.retries = False  # `_ask` tries again
        configuration.discard_unknown_keys = True
        if self.connection.ca_bundle:
            configuration.ssl_ca_cert = self.connection.ca_bundle
        if self.connection.token.get_secret_value() or self.connection.token_file:
            configuration.api_key_prefix["authorization"] = "Bearer"
            configuration.api_key["authorization"] = "-"
            configuration.refresh_api_key_hook = self._renew
        return self.models.ApiClient(configuration, cookie=self.connection.cookie.get_secret_value() or None)

    def _renew(self, configuration: Any) -> None:
        token = self.connection.token.get_secret_value()
        if file := self.connection.token_file:
            try:
                token = token or Path(file).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise ConfigError(f"{file}: {error.strerror}; {TOKEN_FILE} must name a file with a token") from None
        configuration.api_key["authorization"] = token

    def _api(self, service: str) -> Any:
        return getattr(self.models, f"{service}ServiceApi")(self._client)

    def _all(
        self, ask: Callable[..., Any], what: str, predicates: Sequence[dict[str, Any]] = (), **arguments: Any
    ) -> Iterator[Any]:
        if predicates:
            arguments["filter"] = json.dumps({"predicates": list(predicates)})
        token = ""
        while True:
            page = self._ask(ask, page_token=token, page_size=_PAGE, **arguments)
            yield from getattr(page, what) or []
            token = page.next_page_token or ""
            if not token:
                return

    def settled(self, work: Callable[[], Result]) -> Result:
        """What it returns, done again while it fails in ways that may pass.

        For work that makes something, and so must look each time what is there: an answer that was lost may have been
        a success.
        """
        return self._retried(work, lambda error: _may_pass(error) or _conflicts(error))

    def _ask(self, ask: Callable[..., Any], **arguments: Any) -> Any:
        """Ask, again and again if need be, what can be asked twice."""
        return self._retried(lambda: self._once(ask, **arguments), _may_pass)

    def _delete(self, ask: Callable[..., Any], **arguments: Any) -> None:
        """What is not there is gone: an earlier try did it, or somebody else."""
        try:
            self._ask(ask, **arguments)
        except Refused as error:
            if error.status != 404:
                raise

    def _retried(self, work: Callable[[], Result], may_pass: Callable[[Exception], bool]) -> Result:
        return retried(self.connection.patience, work, may_pass)

    def _once(self, ask: Callable[..., Any], **arguments: Any) -> Any:
        return asked(ask, self.connection.endpoint, self.models.ApiException, _remedy, **arguments)


def _called(name: str) -> dict[str, Any]:
    return {"operation": "EQUALS", "key": "display_name", "stringValue": name}


def retried(patience: float, work: Callable[[], Result], may_pass: Callable[[Exception], bool]) -> Result:
    """What it returns, done again for `patience` seconds while it fails in ways that may pass.

    Raises:
        Away: it does not end to.
    """
    try:
        return Retries(patience, may_pass)(work)
    except GaveUp as spent:
        raise Away(f"{spent.__cause__} ({spent})") from spent.__cause__


def asked(
    ask: Callable[..., Any],
    endpoint: str,
    refusal: type[Exception],
    remedy: Callable[[int, str], str],
    **arguments: Any,
) -> Any:
    """One request by a generated client, whose failures are told in one line.

    Args:
        refusal: what the client raises, with HTTP's `status`.
        remedy: what to do, by that status and the reason that is given.

    Raises:
        Refused: the server says no.
        ServerError: it cannot be reached, or is in trouble.
    """
    from urllib3.exceptions import HTTPError

    try:
        return ask(**arguments, _request_timeout=_TIMEOUT)
    except refusal as error:
        status = getattr(error, "status", 0) or 0
        if status == 0 or status == 429 or status >= 500:
            raise ServerError(f"{endpoint}: {_reason(error)}; is it up, and is this its URL?") from None
        told = remedy(status, _reason(error))
        raise Refused(f"{endpoint}: {_reason(error)}" + (f"; {told}" if told else ""), status) from None
    except (HTTPError, OSError) as error:
        raise ServerError(f"{endpoint}: {_reason(error)}; is it up, and is this its URL?") from None


def _may_pass(error: Exception) -> bool:
    """Not what was waited for already: patience is for one wait, not for each of those within another."""
    return isinstance(error, ServerError) and not isinstance(error, Away)


def _conflicts(error: Exception) -> bool:
    """Another made it meanwhile, or an earlier try did."""
    return isinstance(error, Refused) and error.status == 409


def _remedy(status: int, reason: str) -> str:
    return _REMEDIES.get(status, "")


def _reason(error: BaseException | None) -> str:
    """One line of what the server, or the way to it, says."""
    body = getattr(error, "body", None)
    try:
        said = json.loads(body or "")
        text = said.get("error_message") or said.get("message") or said.get("error") or ""
    except (ValueError, AttributeError, TypeError):
        text = ""
    status, reason = getattr(error, "status", 0), getattr(error, "reason", "") or error
    return f"{status}: {text or reason}".replace("\n", " ")[:400] if status else str(reason).split("\n")[0]


def server(endpoint: str = "", namespace: str = "") -> Server:
    """The server that arguments and environment name."""
    return Server(from_environment(os.environ, endpoint, namespace))
