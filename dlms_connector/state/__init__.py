"""What must survive a restart, in one SQLite file; `store` is the only one who speaks to it.

Here lives how it is stored and how files of earlier releases are brought up; what a fact means is `meter.facts`'.
"""

from dlms_connector.state.store import COUNTER_BLOCK, STATE_FILE, StateStore, StoredFact, state_file

__all__ = ["COUNTER_BLOCK", "STATE_FILE", "StateStore", "StoredFact", "state_file"]
