"""What the gateway's loader executes: it looks for a class here by its name, the package does the rest.

Lives in `extensions/custom/` of the gateway. Where the package is not installed in the gateway's environment, it
is taken from the folder `vendor` beside this file.
"""

import os
import sys

_VENDOR = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vendor")
if os.path.isdir(_VENDOR) and _VENDOR not in sys.path:
    sys.path.append(_VENDOR)

from dlms_connector.gateway.connector import DLMSConnector  # noqa: E402

__all__ = ["DLMSConnector"]
