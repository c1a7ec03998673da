"""A webhook: a message as JSON to the URL in the environment. A URL is a secret: it is in no message and no log.

Slack, Mattermost, Teams' workflows and Google Chat show the field `text`; others find everything by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from posttrain.connections import connections

VARIABLE = "POSTTRAIN_WEBHOOK"
_ANSWER_S = 30


def notify(message: Mapping[str, Any]) -> str:
    """Send a message, with retries; returns in a few words how that went.

    Nothing is raised: what happened has happened, told or not.
    """
    import urllib3

    url = os.environ.get(VARIABLE, "")
    if not url:
        return f"none ({VARIABLE} is not set)"
    if not url.startswith(("http://", "https://")):
        return f"{VARIABLE} is no http:// or https:// URL"
    host = urlsplit(url).hostname
    try:
        answer = connections(1, _ANSWER_S).request("POST", url, body=json.dumps(dict(message)).encode())
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        return f"{host} was not reached ({type(error).__name__})"
    return f"told {host}" if answer.status < 300 else f"{host} answered {answer.status}"
