"""Waits for a condition instead of for a time."""

import time


def eventually(condition, seconds: float, what: str, every: float = 0.05):
    """Returns the condition's first true value; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(every)
