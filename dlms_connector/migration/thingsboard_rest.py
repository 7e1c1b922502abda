"""ThingsBoard's REST API as a tenant administrator uses it: devices, their credentials, their time series.

Calls are those of ThingsBoard's Swagger page: auth-controller (login, token), device-controller (tenant
devices, credentials), telemetry-controller (time series). Tokens are in memory alone.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from dlms_connector.errors import CommandError

_PAGE_SIZE: Final = 100
_MAX_PAGES: Final = 10_000
_SERIES_LIMIT: Final = 10_000
_MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_TRIES_WHEN_LIMITED: Final = 6
_LONGEST_PAUSE_S: Final = 30.0


@dataclass(frozen=True)
class Device:
    """A device of the tenant; `id` is ThingsBoard's UUID, `type` the name of its profile."""

    id: str
    name: str
    type: str | None


@dataclass(frozen=True)
class Sample:
    """One value of a time series; `ts_ms` since 1970 in UTC."""

    ts_ms: int
    value: Any


class ThingsBoardRest:
    """One session; logs in at the first call and again whenever the token has expired.

    Args:
        url: e.g. https://thingsboard.example.com
        username: a tenant administrator's.
        password: asked for at login, so that it is not kept here.
        ca_file: PEM of an own certificate authority.
    """

    def __init__(
        self,
        url: str,
        username: str,
        password: Callable[[], str],
        *,
        ca_file: Path | None = None,
        timeout_s: float = 15.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CommandError(
                f"{url!r} is no address of ThingsBoard", hint="e.g. https://thingsboard.example.com"
            )
        self._base_path = parts.path.rstrip("/")
        self._address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        self._username = username
        self._password = password
        self._sleep = sleep
        self._token: str | None = None
        self._refresh_token: str | None = None
        self._connection = _connection(parts.scheme, parts.hostname, _port(parts), ca_file, timeout_s)

    def __repr__(self) -> str:
        return f"ThingsBoardRest({self._address})"

    def close(self) -> None:
        self._connection.close()

    def devices(self) -> Iterator[Device]:
        """Every device of the tenant, page by page."""
        for page in range(_MAX_PAGES):
            answer = self._get("/api/tenant/devices", {"pageSize": _PAGE_SIZE, "page": page})
            for entry in answer.get("data") or ():
                yield _device(entry)
            if not answer.get("hasNext"):
                return

    def device_by_name(self, name: str) -> Device | None:
        """The device of exactly that name, None where there is none."""
        answer = self._call(
            "GET", f"/api/tenant/devices?{urlencode({'deviceName': name})}", missing_is_none=True
        )
        return None if answer is None else _device(answer)

    def access_token(self, device_id: str) -> str | None:
        """The device's access token; None for devices with other credentials (X.509, MQTT basic)."""
        answer = self._get(f"/api/device/{quote(device_id)}/credentials", {})
        if answer.get("credentialsType", "ACCESS_TOKEN") != "ACCESS_TOKEN":
            return None
        token = answer.get("credentialsId")
        return token if isinstance(token, str) else None

    def timeseries(
        self, device_id: str, keys: Sequence[str], start_ms: int, end_ms: int
    ) -> dict[str, list[Sample]]:
        """All values with `start_ms` <= ts < `end_ms`, oldest first, by key; keys without values are there."""
        return {key: self._series(device_id, key, start_ms, end_ms) for key in keys}

    def timeseries_keys(self, device_id: str) -> list[str]:
        """The keys that the device has ever sent."""
        answer = self._call("GET", f"/api/plugins/telemetry/DEVICE/{quote(device_id)}/keys/timeseries")
        return [key for key in answer if isinstance(key, str)] if isinstance(answer, list) else []

    def _series(self, device_id: str, key: str, start_ms: int, end_ms: int) -> list[Sample]:
        samples: list[Sample] = []
        position_ms = start_ms
        while position_ms < end_ms:
            answer = self._get(
                f"/api/plugins/telemetry/DEVICE/{quote(device_id)}/values/timeseries",
                {
                    "keys": key,
                    "startTs": position_ms,
                    "endTs": end_ms,
                    "limit": _SERIES_LIMIT,
                    "orderBy": "ASC",
                    "useStrictDataTypes": "true",
                },
            )
            entries = answer.get(key) or []
            try:
                samples += [Sample(int(entry["ts"]), entry["value"]) for entry in entries]
            except (KeyError, TypeError, ValueError) as error:
                raise CommandError(f"{self._address} answers with values that have no ts or value") from error
            if len(entries) < _SERIES_LIMIT:
                break
            position_ms = samples[-1].ts_ms + 1
        return samples

    def _get(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
        answer = self._call("GET", f"{path}?{urlencode(query)}" if query else path)
        if not isinstance(answer, dict):
            raise CommandError(f"{self._address} answers {path} with something else than ThingsBoard does")
        return answer

    def _call(self, method: str, path: str, *, missing_is_none: bool = False) -> Any:
        if self._token is None:
            self._log_in()
        pause_s = 1.0
        renewed = False
        for _ in range(_TRIES_WHEN_LIMITED):
            status, answer, retry_after = self._exchange(method, path, None, self._token)
            if status == http.client.OK:
                return answer
            if status == http.client.UNAUTHORIZED and not renewed:
                renewed = True
                self._renew()
            elif status == http.client.NOT_FOUND and missing_is_none:
                return None
            elif status == http.client.TOO_MANY_REQUESTS:
                self._sleep(min(retry_after or pause_s, _LONGEST_PAUSE_S))
                pause_s *= 2
            else:
                raise self._refused(path, status, answer)
        raise CommandError(f"{self._address} limits the rate of requests", hint="try again later")

    def _log_in(self) -> None:
        body = {"username": self._username, "password": self._password()}
        status, answer, _ = self._exchange("POST", "/api/auth/login", body, None)
        if status == http.client.UNAUTHORIZED:
            raise CommandError(
                f"{self._address} refuses the login of {self._username}", hint="check user and password"
            )
        self._take_tokens("/api/auth/login", status, answer)

    def _renew(self) -> None:
        """A new token by the refresh token, or by logging in again where that has expired too."""
        if self._refresh_token is not None:
            body = {"refreshToken": self._refresh_token}
            status, answer, _ = self._exchange("POST", "/api/auth/token", body, None)
            if status == http.client.OK:
                self._take_tokens("/api/auth/token", status, answer)
                return
        self._log_in()

    def _take_tokens(self, path: str, status: int, answer: Any) -> None:
        if (
            status != http.client.OK
            or not isinstance(answer, dict)
            or not isinstance(answer.get("token"), str)
        ):
            raise self._refused(path, status, answer)
        self._token = answer["token"]
        self._refresh_token = answer.get("refreshToken")

    def _refused(self, path: str, status: int, answer: Any) -> CommandError:
        words = answer.get("message") if isinstance(answer, dict) else None
        said = f": {words}" if isinstance(words, str) else ""
        hint = "the user needs the rights of a tenant administrator" if status in (401, 403) else ""
        return CommandError(
            f"{self._address} answers {path.partition('?')[0]} with status {status}{said}", hint=hint
        )

    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None, token: str | None
    ) -> tuple[int, Any, float | None]:
        headers = {"Accept": "application/json"}
        if token is not None:
            headers["X-Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        content = None if body is None else json.dumps(body)
        for is_last in (False, True):
            try:
                self._connection.request(method, self._base_path + path, content, headers)
                response = self._connection.getresponse()
                raw = response.read(_MAX_ANSWER_BYTES + 1)
                break
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
                self._connection.close()  # a kept connection that the server has closed meanwhile
                if is_last:
                    raise CommandError(f"{self._address} closes the connection") from error
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                raise CommandError(f"{self._address} cannot be reached: {error}") from error
        if len(raw) > _MAX_ANSWER_BYTES:
            self._connection.close()
            raise CommandError(f"{self._address} answers with more than {_MAX_ANSWER_BYTES} bytes")
        return response.status, _parsed(raw), _seconds(response.getheader("Retry-After"))


def _port(parts: Any) -> int | None:
    try:
        port: int | None = parts.port
    except ValueError as error:
        raise CommandError(f"the address of ThingsBoard: {error}") from error
    return port


def _connection(
    scheme: str, host: str, port: int | None, ca_file: Path | None, timeout_s: float
) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise CommandError(f"the certificate file {ca_file} cannot be used: {error}") from error
    return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)


def _device(entry: Any) -> Device:
    try:
        kind = entry.get("type")
        return Device(str(entry["id"]["id"]), str(entry["name"]), kind if isinstance(kind, str) else None)
    except (KeyError, TypeError, AttributeError) as error:
        raise CommandError("ThingsBoard answers with a device that has no id or no name") from error


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw.strip() else None
    except ValueError:
        return None


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None
