"""Installed among the gateway's extensions by tests: the connector, with waits of minutes that last seconds."""

from dlms_connector.gateway.connector import DLMSConnector as HurriedConnector
from dlms_connector.meter import facts, profile

__all__ = ["HurriedConnector"]

facts.REFUSED_OVER_MS = 4_000
profile._RETRY_S = 2.0
