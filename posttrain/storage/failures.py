"""What went wrong with a store, in one line with the remedy; credentials appear in none.

What a retry would meet again is a RefusedError: settings are to be mended. The rest may pass.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from posttrain.errors import DataError, PosttrainError, RefusedError, StorageError
from posttrain.storage.retries import Damaged, GaveUp, may_pass
from posttrain.storage.uris import Place

# The code of a refusal → what it means, and what to do.
_REFUSALS = {
    "NoSuchBucket": "there is no bucket {bucket!r}; create it, or check its name and AWS_ENDPOINT_URL",
    "AccessDenied": "permission denied; allow these credentials s3:ListBucket on the bucket, and s3:GetObject, "
    "s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on its objects",
    "SignatureDoesNotMatch": "the secret does not fit the access key; check AWS_SECRET_ACCESS_KEY",
    "InvalidAccessKeyId": "the access key is unknown there; check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "ExpiredToken": "the session's credentials have expired; renew them",
    "RequestTimeTooSkewed": "the clock of this machine is off; set it",
    "PreconditionFailed": "an object was replaced while it was fetched; fetch again",
}
_LATER = {  # refused now, and not the next time
    *("PreconditionFailed", "NoSuchUpload"),  # something changed meanwhile
    *("QuotaExceeded", "XMinioAdminBucketQuotaExceeded"),  # as a full disk: room can be made
}
_SAME = {  # answers to HEAD have no body and so no code; and versitygw has a word of its own
    "403": "AccessDenied",
    "Forbidden": "AccessDenied",
    "412": "PreconditionFailed",
    "XAdminUserNotFound": "InvalidAccessKeyId",
}
_ELSEWHERE = {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"}
_ABSENT = {"404", "NoSuchKey", "NotFound"}

# What a disk says to what it will never do; the rest, as that it is full or broken, may pass.
_NEVER = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    errno.ELOOP,
}


@contextmanager
def explained(place: Place) -> Iterator[None]:
    """Turn what boto3, the network and the disk raise into errors of ours.

    Raises:
        DataError: there is no such object.
        RefusedError: what is asked is wrong, or not allowed.
        StorageError: everything else.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except PosttrainError:
        raise
    except GaveUp as spent:
        raise _as_ours(spent.__cause__ or spent, place, f" ({spent})") from spent.__cause__
    except (BotoCoreError, ClientError, OSError) as error:
        raise _as_ours(error, place) from error


@contextmanager
def of_disk(place: str, what: str = "the path") -> Iterator[None]:
    """Turn what a directory's file system raises into an error of ours.

    Args:
        what: there is to check.

    Raises:
        RefusedError: it may not be used so.
        StorageError: it does not do what is asked.
    """
    try:
        yield
    except PosttrainError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise _of_errno(error)(f"{place}: {reason}; check {what}, its owner and its room") from error


def absent(error: Exception) -> bool:
    """Whether a store says that there is no such object."""
    return _code(error) in _ABSENT


def _as_ours(error: BaseException, place: Place, tried: str = "") -> PosttrainError:
    code = _code(error)
    code = _SAME.get(code, code)
    if code in _ABSENT:
        return DataError(f"{place.uri}: nothing there; check bucket and key")
    if isinstance(error, OSError) and error.filename:
        remedy = "free some room" if error.errno == errno.ENOSPC else "check the path and its owner"
        return _of_errno(error)(f"{error.filename}: {error.strerror}; {remedy} or choose another place")
    if isinstance(error, Damaged):
        return StorageError(f"{place.uri}: {error}{tried}; the object, or the way to it, is damaged: send it again")
    kind = RefusedError if _is_refusal(error, code) else StorageError
    if code in _REFUSALS:
        return kind(f"{place.uri}: {_REFUSALS[code].format(bucket=place.bucket)}{tried}")
    if code in _ELSEWHERE:
        region = _said(error).get("Region", "")
        remedy = f"set AWS_REGION to {region}" if region else "set AWS_REGION to the bucket's"
        return kind(f"{place.uri}: the bucket is in another region than the request was signed for; {remedy}")
    reason = " ".join((f"{code}: {_said(error).get('Message')}" if code else str(error)).split())
    remedy = "check credentials, endpoint (AWS_ENDPOINT_URL) and bucket"
    return kind(f"{place.uri}: {reason or type(error).__name__}{tried}; {remedy}")


def _is_refusal(error: BaseException, code: str) -> bool:
    """Whether the store would say the same tomorrow, or boto3 would not even ask it."""
    from botocore import exceptions as boto

    if isinstance(error, boto.ClientError):
        return not may_pass(error) and code not in _LATER
    if isinstance(error, boto.EndpointConnectionError):
        unknown = getattr(error.kwargs.get("error"), "__cause__", None)
        return isinstance(unknown, socket.gaierror) and unknown.errno == socket.EAI_NONAME
    # What hands out credentials may itself be away for a while.
    asks = (boto.CredentialRetrievalError, boto.MetadataRetrievalError)
    return isinstance(error, boto.BotoCoreError) and not may_pass(error) and not isinstance(error, asks)


def _of_errno(error: OSError) -> type[StorageError]:
    return RefusedError if error.errno in _NEVER else StorageError


def _code(error: BaseException) -> str:
    return str(_said(error).get("Code", ""))


def _said(error: BaseException) -> Any:
    """What the store said, if it was the store."""
    response = getattr(error, "response", None)
    return response.get("Error", {}) if isinstance(response, dict) else {}
