"""Enumerations of the protocol that rooms above name too; the library behind them is known to cosem/ alone."""

from dlms_cosem.enumerations import (
    AcseServiceProviderDiagnostics,
    AcseServiceUserDiagnostics,
    ActionResultStatus,
    DataAccessResult,
)
from dlms_cosem.protocol.xdlms import Conformance

__all__ = [
    "AcseServiceProviderDiagnostics",
    "AcseServiceUserDiagnostics",
    "ActionResultStatus",
    "Conformance",
    "DataAccessResult",
]
