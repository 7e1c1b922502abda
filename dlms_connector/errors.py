"""The one error tree: each error knows its layer, whether waiting can mend it, and what to try.

The first split is what a caller has to do next:

* `ConfigurationError`: the operator's words are wrong; retrying is pointless.
* `LinkError` and below: the exchange broke; the association is lost and has to be opened anew.
* `ObjectError`: the meter answered, and said no about one object; the association stands.
"""

from __future__ import annotations

from enum import Enum


class Layer(str, Enum):
    """Where in the stack a fault was seen; the text goes to status, telemetry and logs."""

    CONFIG = "config"
    DNS = "dns"
    TCP = "tcp"
    SERIAL = "serial"
    HDLC = "hdlc"
    WRAPPER = "wrapper"
    ASSOCIATION = "association"
    SECURITY = "security"
    SERVICE = "service"
    OBJECT = "object"
    DATA = "data"
    STATE = "state"
    INTERNAL = "internal"

    def __str__(self) -> str:
        return self.value


class DlmsConnectorError(Exception):
    """Base of every error of this project.

    Args:
        message: what failed, in words for a person, without secrets.
        layer: where it was seen; each class has its own default.
        hint: what to try next, may be empty.
    """

    layer: Layer = Layer.INTERNAL
    transient: bool = True

    def __init__(self, message: str, *, layer: Layer | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if layer is not None:
            self.layer = layer

    def __str__(self) -> str:
        return self.message

    def explain(self) -> str:
        """One line for logs, status and RPC replies: `layer: message (hint)`."""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.layer}: {self.message}{hint}"


class ConfigurationError(DlmsConnectorError):
    """What the operator wrote cannot be used."""

    layer = Layer.CONFIG
    transient = False


class SecretError(ConfigurationError):
    """A secret reference cannot be resolved, or what it resolves to does not fit."""


class StateError(DlmsConnectorError):
    """The state file cannot be read or written."""

    layer = Layer.STATE


class Interrupted(DlmsConnectorError):
    """Somebody else (close, reconfiguration) ended the exchange; nobody's fault."""


class LinkError(DlmsConnectorError):
    """The byte stream or its framing failed: the association is gone with it."""

    layer = Layer.TCP


class ConnectFailed(LinkError):
    """No byte stream could be opened (refused, unreachable, unknown host, no such port)."""


class LinkTimeout(LinkError):
    """The deadline of one request passed without a complete answer."""


class LinkClosed(LinkError):
    """The peer closed the stream (end of file or reset)."""


class FrameError(LinkError):
    """Bytes arrived that no conforming meter sends at this point of the framing."""

    layer = Layer.HDLC


class LinkRejected(LinkError):
    """The meter's link layer said no: DM, FRMR, or a wrapper error."""

    layer = Layer.HDLC


class AssociationError(LinkError):
    """The meter refused or broke the application association.

    `result` and `diagnostic` are the AARE's, None when there was none to read.
    """

    layer = Layer.ASSOCIATION

    def __init__(
        self,
        message: str,
        *,
        result: int | None = None,
        diagnostic: int | None = None,
        layer: Layer | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, layer=layer, hint=hint)
        self.result = result
        self.diagnostic = diagnostic


class SecurityError(LinkError):
    """A tag, a counter, a key or a system title is wrong: nothing of the frame is trusted."""

    layer = Layer.SECURITY


class ProtocolError(LinkError):
    """An APDU does not answer the request that was sent (service, invoke-id, block number)."""

    layer = Layer.SERVICE


class DecodeError(LinkError):
    """Bytes that are not the A-XDR or BER they claim to be. `offset` counts from the APDU's start."""

    layer = Layer.DATA

    def __init__(self, message: str, *, offset: int, hint: str = "") -> None:
        super().__init__(f"{message} at byte {offset}", hint=hint)
        self.offset = offset


class ServiceRefused(DlmsConnectorError):
    """ExceptionResponse or confirmedServiceError: the meter does not do this request.

    `unknown_service`: it said that it does not know the service at all.
    """

    layer = Layer.SERVICE

    def __init__(self, message: str, *, hint: str = "", unknown_service: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.unknown_service = unknown_service


class ObjectError(DlmsConnectorError):
    """A data-access-result or action-result other than success: the association stands.

    `code` is the number of the Green Book's enumeration.
    """

    layer = Layer.OBJECT

    def __init__(self, message: str, *, code: int, permanent: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.transient = not permanent


class InvalidAnswer(ObjectError):
    """A whole answer came, and what it says of this object cannot be used; the association stands."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, code=-1, permanent=False, hint=hint)


class CommandError(DlmsConnectorError):
    """An operator's command (RPC, attribute update, CLI) cannot be carried out as asked."""

    layer = Layer.SERVICE
    transient = False
