"""Faults of a disk that may pass, and how long to wait for that."""

from __future__ import annotations

import errno

PASSING = frozenset(
    (
        errno.ENOSPC,  # somebody makes room
        errno.EDQUOT,
        errno.EIO,  # a cable, a network
        errno.ESTALE,
        errno.EROFS,  # mounted again
        errno.EACCES,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    )
)


def passing_fault(error: BaseException) -> OSError | None:
    """The fault of a disk that an error comes from, by its causes, if waiting may help; None for every other error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in PASSING:
            return cause
        cause = cause.__cause__
    return None
