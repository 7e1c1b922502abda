"""A stand-in for ThingsBoard's REST API: login with JWT, tenant devices, credentials, time series.

Answers, errors and paging are those of ThingsBoard 3.x and 4.x as its Swagger page has them.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

USER = "tenant@example.com"
PASSWORD = "tenant-pass-canary"


class RestStandIn:
    """Devices by name with their token and series; knobs for what can go wrong."""

    def __init__(self):
        self.devices = {}
        self.series = {}
        self.requests = []
        self.valid_tokens = set()
        self.refresh_works = True
        self.expire_after = None
        self.limit_next = 0
        self.fail_with = None
        self.rubbish = False
        self.url = ""
        self._issued = 0

    def add(self, name, token, kind="default", credentials_type="ACCESS_TOKEN"):
        number = len(self.devices) + 1
        identity = f"784f394c-42b6-435a-983c-{number:012d}"
        self.devices[identity] = {
            "device": {
                "id": {"entityType": "DEVICE", "id": identity},
                "createdTime": 1609459200000,
                "tenantId": {"entityType": "TENANT", "id": "13814000-1dd2-11b2-8080-808080808080"},
                "name": name,
                "type": kind,
                "label": None,
            },
            "credentials": {
                "id": {"id": identity},
                "deviceId": {"entityType": "DEVICE", "id": identity},
                "credentialsType": credentials_type,
                "credentialsId": token,
                "credentialsValue": None,
            },
        }
        return identity

    def issue(self):
        self._issued += 1
        token = f"jwt-{self._issued}"
        self.valid_tokens = {token}
        return {"token": token, "refreshToken": f"refresh-{self._issued}", "scope": None}

    def answer(self, method, target, body, authorization):
        parts = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        self.requests.append((method, parts.path, query))
        if parts.path == "/api/auth/login":
            if (body.get("username"), body.get("password")) != (USER, PASSWORD):
                return 401, _error(401, "Invalid username or password", 10)
            return 200, self.issue()
        if parts.path == "/api/auth/token":
            if not self.refresh_works or body.get("refreshToken") != f"refresh-{self._issued}":
                return 401, _error(401, "Token has expired", 11)
            return 200, self.issue()
        if self.limit_next:
            self.limit_next -= 1
            return 429, _error(429, "Too many requests for current tenant!", 33)
        if self.fail_with:
            return self.fail_with
        if authorization.removeprefix("Bearer ") not in self.valid_tokens:
            return 401, _error(401, "Token has expired", 11)
        if self.expire_after is not None:
            self.expire_after -= 1
            if self.expire_after <= 0:
                self.valid_tokens = set()
                self.expire_after = None
        return self._resource(parts.path, query)

    def _resource(self, path, query):
        steps = path.strip("/").split("/")
        if path == "/api/tenant/devices" and "deviceName" in query:
            for entry in self.devices.values():
                if entry["device"]["name"] == query["deviceName"]:
                    return 200, entry["device"]
            return 404, _error(404, "Requested item wasn't found!", 32)
        if path == "/api/tenant/devices":
            size, page = int(query["pageSize"]), int(query["page"])
            everything = [entry["device"] for entry in self.devices.values()]
            pages = -(-len(everything) // size)
            return 200, {
                "data": everything[page * size : (page + 1) * size],
                "totalPages": pages,
                "totalElements": len(everything),
                "hasNext": page + 1 < pages,
            }
        if steps[:2] == ["api", "device"] and steps[3:] == ["credentials"]:
            entry = self.devices.get(steps[2])
            return (200, entry["credentials"]) if entry else (404, _error(404, "Device not found", 32))
        if steps[:4] == ["api", "plugins", "telemetry", "DEVICE"] and steps[5:] == ["keys", "timeseries"]:
            return 200, sorted(self.series.get(steps[4], {}))
        if steps[:4] == ["api", "plugins", "telemetry", "DEVICE"] and steps[5:] == ["values", "timeseries"]:
            return 200, self._values(steps[4], query)
        return 404, _error(404, "Not found", 32)

    def _values(self, identity, query):
        answer = {}
        strict = query.get("useStrictDataTypes") == "true"
        for key in query["keys"].split(","):
            found = [
                {"ts": ts, "value": value if strict else str(value)}
                for ts, value in self.series.get(identity, {}).get(key, [])
                if int(query["startTs"]) <= ts < int(query["endTs"])
            ]
            found.sort(key=lambda entry: entry["ts"], reverse=query.get("orderBy", "DESC") != "ASC")
            if found:
                answer[key] = found[: int(query.get("limit", 100))]
        return answer


def _error(status, message, code):
    return {"status": status, "message": message, "errorCode": code, "timestamp": 1700000000000}


@contextmanager
def rest_stand_in():
    stand_in = RestStandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self):
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            token = self.headers.get("X-Authorization", "")
            status, answer = stand_in.answer(self.command, self.path, body, token)
            raw = b"<html>a proxy's page</html>" if stand_in.rubbish else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = _serve
        do_POST = _serve

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
