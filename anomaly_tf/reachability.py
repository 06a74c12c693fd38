"""Checks within seconds whether a host can be reached."""

from __future__ import annotations

import threading
import urllib.request
from urllib.parse import urlsplit

GIVE_UP_SECONDS = 8.0


class Unreachable(Exception):
    """A host cannot be reached, for the reason in the message."""


def probe(url: str) -> None:
    """Requests the headers of a file, for at most `GIVE_UP_SECONDS`.

    Raises:
        Unreachable: If its host does not answer in time, or does not serve the file.
    """
    answer: list[Exception | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            # A fixed address, https.
            with urllib.request.urlopen(request, timeout=GIVE_UP_SECONDS):  # nosec B310
                answer.append(None)
        except OSError as error:  # URLError is one
            answer.append(error)

    # In a thread, because the timeout does not cover the DNS lookup.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(GIVE_UP_SECONDS)
    problem = answer[0] if answer else f"no answer within {GIVE_UP_SECONDS:g} s"
    if problem is not None:
        raise Unreachable(f"{urlsplit(url).netloc} cannot be reached: {problem}")
