"""What a meter says instead of an answer: ExceptionResponse, confirmedServiceError, data-access-result."""

from __future__ import annotations

from typing import NoReturn

from dlms_cosem.enumerations import ActionResultStatus, DataAccessResult

from dlms_connector.errors import DecodeError, ObjectError, SecurityError, ServiceRefused

STATE_ERRORS = {1: "service not allowed", 2: "service unknown"}
SERVICE_ERRORS = {
    1: "operation not possible",
    2: "service not supported",
    3: "other reason",
    4: "PDU too long",
    5: "deciphering error",
    6: "invocation counter error",
}
_NOT_SUPPORTED = 2
_HINTS = {
    "deciphering error": "check the keys, the system title and the security suite",
    "service not allowed": "this client may not use the service; check client.address and the association",
}
# Asking again changes nothing: the object is not there or not for this client.
_PERMANENT_RESULTS = frozenset((3, 4, 9, 11, 12, 13))
_RESULT_HINTS = {
    3: "this client may not read or write it: another client.address or access right is needed",
    4: "the meter has no such object: check obis and class",
    9: "the object is of another class: check class",
    11: "the meter cannot offer it now or at all",
    12: "the meter holds another data type",
    13: "this client may not see it: another client.address is needed",
}


class InvocationCounterRefused(SecurityError):
    """The meter wants a higher invocation counter; `expected` is its own, None where it does not say."""

    def __init__(self, expected: int | None) -> None:
        super().__init__("the meter refused our invocation counter")
        self.expected = expected


def raise_for_exception(apdu: bytes) -> NoReturn:
    """Turn an ExceptionResponse (0xD8) or confirmedServiceError (0x0E) into an error.

    Raises:
        InvocationCounterRefused, ServiceRefused, DecodeError.
    """
    if apdu[0] == 0xD8:
        if len(apdu) < 3:
            raise DecodeError("ExceptionResponse is truncated", offset=len(apdu))
        if apdu[2] == 6:
            raise InvocationCounterRefused(int.from_bytes(apdu[3:7], "big") if len(apdu) >= 7 else None)
        state = STATE_ERRORS.get(apdu[1], f"state error {apdu[1]}")
        service = SERVICE_ERRORS.get(apdu[2], f"service error {apdu[2]}")
        hint = _HINTS.get(service) or _HINTS.get(state, "")
        raise ServiceRefused(
            f"the meter answered with an exception: {state}, {service}",
            hint=hint,
            unknown_service=apdu[2] == _NOT_SUPPORTED,
        )
    raise ServiceRefused(f"the meter answered with confirmedServiceError {apdu[1:4].hex()}")


def object_error(code: int, what: str) -> ObjectError:
    """The error of a data-access-result; `what` names the object."""
    return _result_error(code, what, DataAccessResult)


def action_error(code: int, what: str) -> ObjectError:
    """The error of an action-result; `what` names the object and method."""
    return _result_error(code, what, ActionResultStatus)


def _result_error(
    code: int, what: str, names: type[DataAccessResult] | type[ActionResultStatus]
) -> ObjectError:
    try:
        text = str(names(code).name).lower().replace("_", " ")
    except ValueError:
        text = f"result {code}"
    return ObjectError(
        f"{what}: {text}", code=code, permanent=code in _PERMANENT_RESULTS, hint=_RESULT_HINTS.get(code, "")
    )
