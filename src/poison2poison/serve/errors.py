"""What a request can end in but an answer: a status, and a message that holds nothing of the model or of upstream."""

from __future__ import annotations


class ReplyError(Exception):
    """An error that the client is told.

    Attributes:
        status: Of HTTP.
        kind: OpenAI's type of error.
        message: For the client; of our own making.
        code: What programs look for.
        param: The field that is wrong.
    """

    status = 500
    kind = "server_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.param = message, code, param

    @property
    def content(self) -> dict[str, object]:
        """The body of the reply."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the reply."""
        return {}


class RefusedError(ReplyError):
    """The client asked for what is not supported, or is too much."""

    status, kind = 400, "invalid_request_error"


class UnknownError(ReplyError):
    """There is no such model or endpoint."""

    status, kind = 404, "invalid_request_error"


class KeyRefusedError(ReplyError):
    """The key is missing or wrong."""

    status, kind = 401, "invalid_request_error"

    @property
    def headers(self) -> dict[str, str]:
        """What kind of key is wanted."""
        return {"www-authenticate": "Bearer"}


class TooLargeError(ReplyError):
    """The body is too large."""

    status, kind = 413, "invalid_request_error"


class SlowError(ReplyError):
    """The body does not come."""

    status, kind = 408, "invalid_request_error"


class BusyError(ReplyError):
    """The queue is full."""

    status, kind = 429, "rate_limit_error"

    @property
    def headers(self) -> dict[str, str]:
        """A second later another batch has left the queue, mostly."""
        return {"retry-after": "1"}


class UpstreamError(ReplyError):
    """The upstream server failed, or what it sent is no whole answer."""

    status = 502


class EndingError(ReplyError):
    """The server is about to end."""

    status = 503


class LateError(ReplyError):
    """The answer took too long."""

    status = 504
