"""How an S3 store is reached: by the standard variables of AWS, ours where AWS has none, or by parameter.

Credentials are no option: they come by boto3's standard chain (environment, profile, IRSA, instance) and are renewed by
it while a transfer goes on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from posttrain.errors import ConfigError, nearest

PREFIX = "POSTTRAIN_S3_"
_NO_SECRET = "credentials do not belong in the endpoint; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class S3Options(BaseModel):
    """What is empty is left to boto3: its variables, its profile, its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field(default="", description="URL of the service, if it is not AWS (AWS_ENDPOINT_URL)")
    region: str = Field(default="", description="the bucket's region (AWS_REGION, AWS_DEFAULT_REGION)")
    path_style: bool | None = Field(default=None, description="bucket in the path; if unset, with an endpoint of yours")
    ca_bundle: str = Field(default="", description="file of certificates to trust (AWS_CA_BUNDLE)")
    proxy: str = Field(default="", description="URL of an HTTP proxy (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)")
    encryption: Literal["", "AES256", "aws:kms"] = Field(default="", description="what the store encrypts objects by")
    kms_key: str = Field(default="", description="the key of aws:kms, if not the bucket's own")
    connections: int = Field(default=32, ge=1, le=256, description="requests side by side in a transfer")
    timeout: float = Field(default=20, gt=0, description="seconds of silence after which a request has failed")
    patience: float = Field(default=60, ge=0, description="seconds for which a request that fails is tried again")

    @field_validator("endpoint")
    @classmethod
    def _no_secret(cls, value: str) -> str:
        if "@" in urlsplit(value).netloc:
            raise ValueError(_NO_SECRET)
        return value

    @model_validator(mode="after")
    def _fits(self) -> S3Options:
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("kms_key needs encryption aws:kms")
        return self

    @property
    def at_rest(self) -> dict[str, str]:
        """Arguments of every request that makes an object."""
        given = {"ServerSideEncryption": self.encryption, "SSEKMSKeyId": self.kms_key}
        return {name: value for name, value in given.items() if value}


# Each option by its variable: the keys that a secret may have beside the credentials.
VARIABLES = tuple(f"{PREFIX}{name.upper()}" for name in S3Options.model_fields)


def options_from(environment: Mapping[str, str]) -> S3Options:
    """The options that POSTTRAIN_S3_… variables give.

    Raises:
        ConfigError: a variable is unknown or has a wrong value. The value is not shown: a proxy's may hold a password.
    """
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and value
    }
    # AWS's own name for the region, which its other SDKs read and boto3 does not.
    if region := environment.get("AWS_REGION"):
        given.setdefault("region", region)
    try:
        return S3Options.model_validate(given)
    except ValidationError as error:
        raise ConfigError("; ".join(_complaint(detail) for detail in error.errors())) from None


def _complaint(detail: Any) -> str:
    name = "".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"unknown variable {PREFIX}{name.upper()}{nearest(name, S3Options.model_fields)}"
    return f"{PREFIX}{name.upper() or '…'}: {detail['msg'].removeprefix('Value error, ')}"


def client(options: S3Options) -> Any:
    """A boto3 client, shared by the stores that reach the same service in the same way."""
    told = tuple(
        sorted(item for item in os.environ.items() if item[0].startswith("AWS_") or "_proxy" in item[0].lower())
    )
    return _client(options, told, os.getpid())  # connections must not be shared over a fork


@lru_cache(maxsize=8)
def _client(options: S3Options, told: tuple[tuple[str, str], ...], process: int) -> Any:
    import boto3
    from botocore.config import Config

    # At its lowest level boto3 logs headers, a session's token among them.
    for name in ("boto3", "botocore", "urllib3"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.INFO))
    style = {None: "auto", True: "path", False: "virtual"}[options.path_style]
    config = Config(
        retries={"total_max_attempts": 1},  # `retries.py` tries again
        max_pool_connections=options.connections,
        connect_timeout=options.timeout,
        read_timeout=options.timeout,
        tcp_keepalive=True,
        # The checksum of every part is signed, and the store compares it; a second pass for SHA-256 adds nothing.
        s3={"addressing_style": style, "payload_signing_enabled": False},
        response_checksum_validation="when_required",
        proxies={"http": options.proxy, "https": options.proxy} if options.proxy else None,
    )
    try:
        made = boto3.session.Session().client(
            "s3",
            region_name=options.region or None,
            endpoint_url=options.endpoint or None,
            verify=options.ca_bundle or None,
            config=config,
        )
    except ValueError as error:  # an endpoint or a region that is none
        reason = _NO_SECRET if "@" in str(error) else f"{error}; give a URL, as https://host:port, and a region's name"
        raise ConfigError(f"AWS_ENDPOINT_URL, AWS_REGION: {reason}") from None
    if "@" in urlsplit(made.meta.endpoint_url).netloc:
        raise ConfigError(f"AWS_ENDPOINT_URL: {_NO_SECRET}")
    made.meta.events.register("before-parse.*.ListObjectsV2", _read_list)  # by `*` before botocore's own
    made.meta.events.register("before-call.s3", _ask_no_leave)
    made.meta.events.register("after-call.s3", partial(_renew, made))
    return made


def _renew(made: Any, parsed: Mapping[str, Any], **_: Any) -> None:
    """boto3 asks again for credentials whose end it knows; a file that it read once may have been renewed since."""
    import boto3

    if parsed.get("Error", {}).get("Code") == "ExpiredToken" and (found := boto3.session.Session().get_credentials()):
        made._request_signer._credentials = found


def _read_list(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """The objects of a list without the fields that nobody reads: botocore takes three times as long.

    It gets the rest, and all where this is not as expected: it knows other forms, and what to say.
    """
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(response_dict["body"])
        space = root.tag.removesuffix("ListBucketResult")
        objects: list[dict[str, Any]] = [
            {part.tag.removeprefix(space): part.text for part in each} for each in root.iter(f"{space}Contents")
        ]
        for each in objects:
            each |= {"Size": int(each["Size"]), "LastModified": datetime.fromisoformat(each["LastModified"])}
    except (ElementTree.ParseError, KeyError, TypeError, ValueError):
        return
    if objects:
        root[:] = [part for part in root if part.tag != f"{space}Contents"]
        response_dict["body"] = ElementTree.tostring(root)
        customized_response_dict["Contents"] = objects


def _ask_no_leave(params: dict[str, Any], **_: Any) -> None:
    """`Expect: 100-continue` costs a round trip for each part."""
    params["headers"].pop("Expect", None)
