"""A Kubeflow Model Registry's server: how it is reached, what is asked again, and what its refusals mean.

The `model-registry` client's own front sends what it cannot finish half, takes a name that exists for a success, and
waits five minutes for an answer. Its API client, one layer below, does one request a call, which is what is used here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from posttrain.errors import ConfigError, ServerError
from posttrain.storage.retries import GaveUp, Retries

TOKEN, TOKEN_FILE, CA = (f"POSTTRAIN_MODEL_REGISTRY_{name}" for name in ("TOKEN", "TOKEN_PATH", "CA_BUNDLE"))
_OF_THE_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_PATIENCE = 60.0  # seconds for which a request that fails is tried again
_TIMEOUT = 30  # seconds of one request
_PAGE = 100
_HOW = "is it up, and is this its URL?"
Result = TypeVar("Result")

_REMEDIES = {
    401: f"it wants a token: set {TOKEN} or {TOKEN_FILE}",
    403: f"this token's owner may not do this: give it a role for the Model Registry, or another {TOKEN}",
    404: "no Model Registry with the client's API is there: check the URL, or install the model-registry client of the "
    "server's release",
}


class Server:
    """A server's API, a method for each thing that is asked of it.

    Every method raises ConfigError where the server says no, and ServerError where it cannot be reached for `patience`
    seconds.

    Args:
        url: http:// or https://, with whatever stands before `/api/model_registry`.
        environment: has a token, or the file with one, and the certificates to trust, if they are needed. A pod's own
            token is sent by https only.

    Raises:
        ConfigError: the URL is none, a file cannot be read, or the client is not installed.
    """

    def __init__(self, url: str, environment: Mapping[str, str], patience: float = _PATIENCE) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise ConfigError(
                f"model_registry: {parts.scheme or '(no scheme)'}://{parts.hostname or ''}: give the server's URL, as "
                f"http://model-registry-service.kubeflow:8080, and its token by {TOKEN}"
            )
        self.url, self._patience = url.rstrip("/"), patience
        try:
            from mr_openapi import Configuration
        except ImportError:
            raise ConfigError(
                "model_registry: the client is not installed; pip install 'posttrain[model-registry]'"
            ) from None
        token = _token(environment, parts.scheme == "https")
        self._configuration = Configuration(
            host=self.url, access_token=token or None, ssl_ca_cert=environment.get(CA) or None
        )

    def model(self, name: str) -> Any | None:
        """The registered model of that name."""
        return self._ask(lambda api: api.get_registered_model_by_params(name))

    def versions(self, model: Any) -> list[Any]:
        """A registered model's."""
        from model_registry.types import ListOptions

        options, found = ListOptions(limit=_PAGE), []
        while True:
            found += self._ask(lambda api: api.get_model_versions(model.id, options))
            if not options.next_page_token:
                return found

    def artifacts(self, version: Any) -> list[Any]:
        """A version's model artifacts."""
        return self._ask(lambda api: api.get_model_artifacts(version.id))

    def put_model(self, **fields: Any) -> Any:
        """Make a registered model, or change the one with this `id`."""
        from model_registry.types import RegisteredModel

        return self._put(lambda api: api.upsert_registered_model(RegisteredModel(**fields)))

    def put_version(self, model: Any, **fields: Any) -> Any:
        """Make a version, or change the one with this `id`."""
        from model_registry.types import ModelVersion

        return self._put(lambda api: api.upsert_model_version(ModelVersion(**fields), model.id))

    def add_artifact(self, version: Any, **fields: Any) -> Any:
        """Make a model artifact of a version."""
        from model_registry.types import ModelArtifact

        return self._put(lambda api: api.upsert_model_version_artifact(ModelArtifact(**fields), version.id))

    def _put(self, work: Callable[[Any], Awaitable[Result]]) -> Result | None:
        """What was made; None where the name is there already, by others or a try whose answer was lost."""
        from mr_openapi.exceptions import ConflictException

        async def unless_there(api: Any) -> Result | None:
            try:
                return await work(api)
            except ConflictException:
                return None

        return self._ask(unless_there)

    def _ask(self, work: Callable[[Any], Awaitable[Result]]) -> Result:
        import aiohttp
        from model_registry.core import ModelRegistryAPIClient
        from mr_openapi.exceptions import ApiException

        def may_pass(error: Exception) -> bool:
            if isinstance(error, ApiException):
                return error.status == 429 or (error.status or 0) >= 500
            certificate = isinstance(error, aiohttp.ClientConnectorCertificateError)
            return isinstance(error, (aiohttp.ClientError, OSError)) and not certificate

        async def once() -> Result:
            async with asyncio.timeout(_TIMEOUT):
                return await work(ModelRegistryAPIClient(self._configuration))

        try:
            return Retries(self._patience, may_pass)(lambda: asyncio.run(once()))
        except GaveUp as spent:
            raise ServerError(f"{self.url}: {_reason(spent.__cause__)} ({spent}); {_HOW}") from spent.__cause__
        except ApiException as error:
            remedy = _REMEDIES.get(error.status, "this is not expected of a Model Registry")
            raise ConfigError(f"{self.url}: {_reason(error)}; {remedy}") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise ConfigError(f"{self.url}: {_reason(error)}; name the certificates to trust by {CA}") from None
        except (ValueError, AssertionError) as error:
            raise ConfigError(f"{self.url}: its answer is no Model Registry's ({_reason(error)}); {_HOW}") from None


def _token(environment: Mapping[str, str], encrypted: bool) -> str:
    if token := environment.get(TOKEN, ""):
        return token
    file = environment.get(TOKEN_FILE, "")
    if not file and not (encrypted and _OF_THE_POD.is_file()):
        return ""
    path = Path(file or _OF_THE_POD)
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; {TOKEN_FILE} must name a file with a token") from None


def _reason(error: BaseException | None) -> str:
    """One line of what the server, or the way to it, says; never a header."""
    status, body = getattr(error, "status", None), getattr(error, "body", None)
    if not status:
        return " ".join(str(error).split())[:300] or type(error).__name__
    try:
        said = json.loads(body or "").get("message", "")
    except (ValueError, AttributeError):
        said = body or getattr(error, "reason", "")
    return f"{status}: {' '.join(str(said).split())[:300]}"
