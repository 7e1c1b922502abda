"""The device RPC methods: their parameters in words, and what each does with the meter.

Parameters come as JSON, or in the built-in connectors' text form `key=value;key=value;`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dlms_connector.config.reading import ProfileSettings
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.errors import CommandError
from dlms_connector.meter import operations
from dlms_connector.meter.profile.access import Window
from dlms_connector.meter.profile.book import RowBook
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.survey.discovery import discover_summary

MAX_ROWS = 500
_NAMED_DEPTH = 4


def _nothing(_: MeterSession) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Call:
    """What a request comes to: work with the open session, or an answer at once."""

    run: Callable[[MeterSession], Any] = _nothing
    needs_meter: bool = True
    audit: str = ""
    immediate: Callable[[], Any] | None = None


def device_call(poller: DevicePoller, method: str, params: Any, depth: int = 0) -> Call:
    """The call for a method; a name of `serverSideRpc` stands for its built-in call.

    Raises:
        CommandError: unknown method or bad parameters.
    """
    for named in poller.device.server_side_rpc:
        if named.method == method and depth < _NAMED_DEPTH:
            given = params if isinstance(params, dict) else {}
            return device_call(poller, named.call, {**named.params, **given}, depth + 1)
    make = _METHODS.get(method)
    if make is None:
        known = sorted({*_METHODS, *(named.method for named in poller.device.server_side_rpc)})
        raise CommandError(f'unknown method "{method}"', hint=f"known: {', '.join(known)}")
    return make(poller, parse_params(params))


def parse_params(params: Any) -> dict[str, Any]:
    """JSON object, `key=value;` text, a bare OBIS code or key, or nothing.

    Raises:
        CommandError: anything else.
    """
    if params is None or params == "":
        return {}
    if isinstance(params, dict):
        return params
    if not isinstance(params, str):
        raise CommandError('params is an object or a text such as "obis=1-0:1.8.0;class=3;"')
    text = params.strip()
    if "=" not in text:
        name = text.rstrip(";")
        return {"obis": name} if re.match(r"\d+[-.]\d+[:.]", name) else {"key": name}
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    wrong = [key for key, sign, _ in pairs if not sign]
    if wrong:
        raise CommandError(f'"{wrong[0]}" has no value', hint='write "obis=1-0:1.8.0;class=3;attribute=2;"')
    return {key.strip(): value.strip() for key, _, value in pairs}


def _read(poller: DevicePoller, params: dict[str, Any]) -> Call:
    definition = operations.object_definition(poller.device, params)
    return Call(lambda session: operations.read(session, definition))


def _write(poller: DevicePoller, params: dict[str, Any]) -> Call:
    if "value" not in params:
        raise CommandError('"value" is missing')
    definition = operations.object_definition(poller.device, params)
    operations.allow(poller.device, definition.obis, "set")
    value, kind = params["value"], str(params.get("type", "auto"))

    return Call(
        lambda session: operations.write(session, definition, value, kind),
        audit=f"{definition.obis}#{definition.attribute} = {value!r}",
    )


def _action(poller: DevicePoller, params: dict[str, Any]) -> Call:
    definition = operations.object_definition(poller.device, params)
    operations.allow(poller.device, definition.obis, "action")
    method = operations.whole_number(params, "method", 0, 1, 127)
    ref = AttributeRef(operations.reference(definition).class_id, definition.obis, method)
    value, kind = params.get("value"), str(params.get("type", ""))
    return Call(
        lambda session: operations.execute(session, ref, value, kind),
        audit=f"{definition.obis} method {method}({value!r})",
    )


def _moment_ms(params: dict[str, Any], name: str, default_ms: int) -> int:
    value = params.get(name)
    if value is None:
        return default_ms
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    try:
        return int(datetime.fromisoformat(str(value)).timestamp() * 1000)
    except ValueError as error:
        raise CommandError(f'"{name}" is epoch milliseconds or an ISO date and time') from error


def _read_profile(poller: DevicePoller, params: dict[str, Any]) -> Call:
    now_ms = time.time_ns() // 1_000_000
    window = Window(_moment_ms(params, "from", now_ms - 3_600_000), _moment_ms(params, "to", now_ms))
    if window.from_ms > window.to_ms:
        raise CommandError('"from" is later than "to"')
    limit = operations.whole_number(params, "limit", MAX_ROWS, 1, MAX_ROWS)
    settings = _profile_settings(poller, params)
    tell = poller.session.tell
    reader = ProfileReader(
        poller.device, settings, poller.session.state, on_event=tell, book=_row_book(poller, settings, tell)
    )
    return Call(lambda session: operations.profile_answer(reader, session, window, limit))


def _row_book(poller: DevicePoller, settings: ProfileSettings, tell: Callable[[str], None]) -> RowBook:
    """Where the rows that operators ask for are counted: one book for each profile, beside the poller's own."""
    name = f"readProfile {settings.obis}"
    for book in poller.book.profiles:
        if book.name == name:
            return book
    book = RowBook(lambda text: tell(f"{name}: {text}"), name=name)
    poller.book.profiles.append(book)
    return book


def _profile_settings(poller: DevicePoller, params: dict[str, Any]) -> ProfileSettings:
    code = params.get("obis")
    if code is None and len(poller.device.profiles) == 1:
        return poller.device.profiles[0]
    try:
        obis = Obis.parse(str(code))
    except ValueError as error:
        raise CommandError('"obis" names the profile, e.g. 1-0:99.1.0') from error
    for settings in poller.device.profiles:
        if settings.obis == obis:
            return settings
    return ProfileSettings.model_validate({"obis": str(obis)})


def _get_clock(_: DevicePoller, __: dict[str, Any]) -> Call:
    return Call(operations.read_clock)


def _set_clock(poller: DevicePoller, params: dict[str, Any]) -> Call:
    operations.allow(poller.device, operations.CLOCK.obis, "set")
    given = _moment_ms(params, "time", -1)
    return Call(
        lambda session: operations.set_clock(session, None if given < 0 else given),
        audit="clock" if given < 0 else f"clock to {given}",
    )


def _relay_obis(params: dict[str, Any]) -> Obis:
    try:
        return Obis.parse(str(params.get("obis", operations.RELAY)))
    except ValueError as error:
        raise CommandError(str(error)) from error


def _relay(connect: bool) -> Callable[[DevicePoller, dict[str, Any]], Call]:
    def make(poller: DevicePoller, params: dict[str, Any]) -> Call:
        obis = _relay_obis(params)
        operations.allow(poller.device, obis, "action")
        return Call(lambda session: operations.relay_switch(session, connect, obis), audit=f"relay {obis}")

    return make


def _relay_state(_: DevicePoller, params: dict[str, Any]) -> Call:
    obis = _relay_obis(params)
    return Call(lambda session: operations.relay_state(session, obis))


def _status(poller: DevicePoller, _: dict[str, Any]) -> Call:
    return Call(immediate=poller.status)


def _reconnect(poller: DevicePoller, _: dict[str, Any]) -> Call:
    def run(session: MeterSession) -> str:
        session.close(time.monotonic() + 2.0)
        poller.reconnect_now()
        return "reconnecting"

    return Call(run, needs_meter=False)


def _pause(poller: DevicePoller, _: dict[str, Any]) -> Call:
    def run() -> str:
        poller.pause()
        return "paused"

    return Call(immediate=run)


def _resume(poller: DevicePoller, _: dict[str, Any]) -> Call:
    def run() -> str:
        poller.resume()
        return "resumed"

    return Call(immediate=run)


def _test(_: DevicePoller, __: dict[str, Any]) -> Call:
    return Call(operations.time_layers, needs_meter=False)


def _discover(_: DevicePoller, __: dict[str, Any]) -> Call:
    return Call(discover_summary)


_METHODS: dict[str, Callable[[DevicePoller, dict[str, Any]], Call]] = {
    "get": _read,
    "read": _read,
    "set": _write,
    "write": _write,
    "action": _action,
    "readProfile": _read_profile,
    "getClock": _get_clock,
    "setClock": _set_clock,
    "relayConnect": _relay(True),
    "relayDisconnect": _relay(False),
    "relayState": _relay_state,
    "getStatus": _status,
    "reconnect": _reconnect,
    "pause": _pause,
    "resume": _resume,
    "test": _test,
    "discover": _discover,
}
