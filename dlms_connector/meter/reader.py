"""Reading registers on an association: by lists where the meter does them, scalers learned once.

What is learned of the meter (scalers, units, that it refuses lists) is kept on disk: a restart asks nothing again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem import services
from dlms_connector.cosem.association import Association
from dlms_connector.cosem.services import AttributeRef, ListRequest
from dlms_connector.cosem.units import unit_text
from dlms_connector.cosem.values import Value
from dlms_connector.errors import LinkClosed, LinkTimeout, ObjectError, ProtocolError, ServiceRefused
from dlms_connector.meter.plan import Batch, ReadPlan, Register
from dlms_connector.state import StateStore

FACT_ABILITIES = "abilities"
_FACT_SCALERS = "scalers"
_LIST_FAILURES = 2


class RegisterReader:
    """Reads one meter's registers; `lists` tells whether GET-with-list is still tried."""

    def __init__(
        self, device: DeviceSettings, plan: ReadPlan, state: StateStore, on_event: Callable[[str], None]
    ) -> None:
        self._name = device.device_name
        self._plan = plan
        self._state = state
        self._on_event = on_event
        self._list_failures = 0
        self._list_worked = False
        self._scalers_known = False
        abilities = state.get_all(self._name, FACT_ABILITIES)
        self.lists = device.client.use_lists and bool(abilities.get("lists", True))
        self._recall_scalers()

    def _recall_scalers(self) -> None:
        known = self._state.get_all(self._name, _FACT_SCALERS)
        for register in self._plan.registers:
            if register.needs_scaler and register.scaler_ref is not None:
                fact = known.get(str(register.scaler_ref))
                if fact is not None:
                    register.learn(*fact)

    def read(self, association: Association, batch: Batch) -> list[Value | ObjectError]:
        """Each register's raw value, or the ObjectError that the meter gave for it. Raises LinkError."""
        registers = batch.registers
        if not self._scalers_known:
            unknown = [register for register in registers if register.needs_scaler]
            if unknown:
                self.learn_scalers(association, unknown)
            self._scalers_known = not any(register.needs_scaler for register in self._plan.registers)
        request = batch.list_request
        if request is not None and self.lists:
            results = self._get_list(association, request)
            if results is not None:
                return results
        return [self._read_one(association, register) for register in registers]

    @staticmethod
    def _read_one(association: Association, register: Register) -> Value | ObjectError:
        try:
            return services.get_prepared(association, register.request, register.ref)
        except ObjectError as error:
            return error

    def _get_list(self, association: Association, request: ListRequest) -> list[Value | ObjectError] | None:
        """The results of a list, None where the meter refuses it. Raises LinkError."""
        try:
            results = services.get_list(association, request)
        except (ServiceRefused, ObjectError) as error:
            self._list_failed(f"the meter refuses lists: {error.explain()}")
            return None
        except (LinkTimeout, LinkClosed, ProtocolError):
            # Some meters fall silent or hang up on a list instead of refusing it.
            self._list_failed("the meter never answered a list")
            raise
        self._list_worked = True
        return results

    def _list_failed(self, why: str) -> None:
        """Give lists up for good when none ever worked; one failure may be anything."""
        self._list_failures += 1
        if self._list_worked or self._list_failures < _LIST_FAILURES:
            return
        self.lists = False
        self._plan.fit(0, False)
        self._state.put(self._name, FACT_ABILITIES, "lists", False)
        self._on_event(f"{why}; its registers are read one by one from now on")

    def learn_scalers(self, association: Association, registers: Sequence[Register]) -> None:
        """Read scalers and units and keep them on disk. Raises LinkError."""
        refs = list(dict.fromkeys(register.scaler_ref for register in registers if register.scaler_ref))
        learned: dict[str, tuple[int, str]] = {}
        for ref, result in zip(refs, self._read_refs(association, refs), strict=True):
            if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], int):
                unit = result[1] if isinstance(result[1], int) else 255
                learned[str(ref)] = (result[0], unit_text(unit))
            elif not isinstance(result, ObjectError) or not result.transient:
                learned[str(ref)] = (0, "")
        for register in registers:
            fact = learned.get(str(register.scaler_ref))
            if fact is not None:
                register.learn(*fact)
        if learned:
            self._state.put_many(self._name, _FACT_SCALERS, learned)

    def _read_refs(self, association: Association, refs: Sequence[AttributeRef]) -> list[Value | ObjectError]:
        results: list[Value | ObjectError] = []
        lists = self.lists and association.conformance.multiple_references
        size = self._plan.list_size if lists else 1
        for start in range(0, len(refs), size):
            part = refs[start : start + size]
            several = self._get_list(association, ListRequest(part)) if len(part) > 1 else None
            results += several if several is not None else [self._get_one(association, ref) for ref in part]
        return results

    @staticmethod
    def _get_one(association: Association, ref: AttributeRef) -> Value | ObjectError:
        try:
            return services.get(association, ref)
        except ObjectError as error:
            return error
