"""The schema for editors, the reference page and the shipped examples keep step with the settings."""

import json
from pathlib import Path

import jsonschema
import pytest

from dlms_connector.cli.schema import schema_text
from dlms_connector.config.loader import load_document, load_file
from dlms_connector.config.reference import fill_tables, section_names

ROOT = Path(__file__).parent.parent.parent
VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema_text()))


def is_valid(document):
    return VALIDATOR.is_valid(document)


def test_the_schema_file_is_the_settings():
    assert (ROOT / "config/dlms_connector.schema.json").read_text(encoding="utf-8") == schema_text()
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)


def test_the_reference_page_is_the_settings_and_leaves_none_out():
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert fill_tables(page) == page
    for name in section_names():
        assert f"<!-- table: {name} -->" in page


def test_the_shipped_example_is_sound_for_the_loader_and_for_editors():
    path = ROOT / "config/dlms_connector.json"
    configuration = load_file(path)
    assert configuration.problems == ()
    assert configuration.devices[0].device_name == "medidor_1"
    assert {type(device.transport).__name__ for device in configuration.devices} == {
        "TcpTransport",
        "SerialTransport",
    }
    VALIDATOR.validate(json.loads(path.read_text(encoding="utf-8")))


SHORT_FORMS = [
    {},
    {"defaults": {"template": "microstar", "transport": {"port": 3334}}},
    {"shard": {"index": "${env:I}", "count": 3}},
    {"devices": [{"deviceName": "m", "transport": {"host": "h"}}]},
    {"devices": [{"deviceName": "m", "transport": {"type": "serial", "port": "/dev/ttyUSB0"}, "_note": 1}]},
    {
        "devices": [
            {
                "deviceName": "m",
                "transport": {"host": "h"},
                "timeseries": ["voltage_l1", {"key": "frequency"}],
            }
        ]
    },
    {
        "devices": [
            {
                "deviceName": "m",
                "transport": {"host": "h"},
                "objects": {"x": "1-0:1.8.0"},
                "timeseries": ["x"],
            }
        ]
    },
    {
        "devices": [
            {
                "deviceName": "m",
                "transport": {"host": "h"},
                "allowWrite": ["0-0:96.3.10"],
                "pollPeriod": "15m",
            }
        ]
    },
    {"devices": [{"deviceName": "m", "transport": {"host": "h"}, "pollPeriod": "${env:P}"}]},
]


@pytest.mark.parametrize("document", SHORT_FORMS)
def test_editors_accept_every_short_form_that_the_loader_takes(document):
    assert is_valid(document)
    environment = {"I": "0", "P": "1000"}
    assert load_document(document, environment=environment).errors == ()


@pytest.mark.parametrize(
    "document",
    [
        {"device": []},
        {"devices": [{"transport": {"host": "h"}}]},
        {"devices": [{"deviceName": "m", "transport": {"host": "h", "prt": 1}}]},
        {"devices": [{"deviceName": "m", "transport": {"host": "h"}, "pollPeriod": "soon"}]},
        {"devices": [{"deviceName": "m", "transport": {"host": "h"}, "client": {"password": "1234"}}]},
        {"devices": [{"deviceName": "m", "transport": {"host": "h"}, "timeseries": [{"obis": "1-0:1.8.0"}]}]},
    ],
)
def test_editors_and_loader_refuse_the_same(document):
    assert not is_valid(document)
    assert load_document(document).errors


def test_the_gateway_s_configuration_has_the_connector_and_the_safe_choices():
    gateway = json.loads((ROOT / "config/tb_gateway.json").read_text(encoding="utf-8"))
    assert gateway["connectors"] == [
        {"type": "custom", "name": "DLMS", "class": "DLMSConnector", "configuration": "dlms_connector.json"}
    ]
    assert gateway["thingsboard"]["keep_alive"] == 15
    assert gateway["thingsboard"]["remoteConfiguration"] is True
    assert gateway["thingsboard"]["checkingDeviceActivity"]["checkDeviceInactivity"] is False
    assert gateway["thingsboard"]["deviceFiltering"]["enable"] is False
    assert gateway["storage"]["type"] == "sqlite"
    assert "accessToken" not in gateway["thingsboard"]["security"], "the token comes from the environment"


def test_the_gateway_reads_the_storage_settings_as_they_are_meant():
    settings_module = pytest.importorskip("thingsboard_gateway.storage.sqlite.storage_settings")
    gateway = json.loads((ROOT / "config/tb_gateway.json").read_text(encoding="utf-8"))
    settings = settings_module.StorageSettings(gateway["storage"])
    assert settings.warnings == []
    assert (settings.max_read_records_count, settings.size_limit, settings.max_db_amount) == (1000, 1024, 4)
