"""Databases as the bridge leaves them, in the variants that exist in the field."""

import sqlite3

METERS = """id INTEGER PRIMARY KEY, name VARCHAR(100) NOT NULL UNIQUE, ip_address VARCHAR(45) NOT NULL,
 port INTEGER, client_id INTEGER, server_id INTEGER, status VARCHAR(20), last_seen DATETIME, last_error TEXT,
 error_count INTEGER, process_id INTEGER, tb_enabled BOOLEAN, tb_host VARCHAR(255), tb_port INTEGER,
 tb_token VARCHAR(100), tb_device_name VARCHAR(100), model VARCHAR(100), serial_number VARCHAR(100),
 firmware_version VARCHAR(50), created_at DATETIME, updated_at DATETIME"""
CONFIGS = """id INTEGER PRIMARY KEY, meter_id INTEGER NOT NULL REFERENCES meters(id),
 measurement_name VARCHAR(50) NOT NULL, obis_code VARCHAR(20) NOT NULL, enabled BOOLEAN, sampling_interval FLOAT,
 tb_key VARCHAR(50), created_at DATETIME, updated_at DATETIME"""

VARIANTS = {
    "full": (METERS, CONFIGS, True),
    "without diagnostics": (METERS, CONFIGS, False),
    "without tb columns": (
        "id INTEGER PRIMARY KEY, name VARCHAR(100) NOT NULL UNIQUE, ip_address VARCHAR(45) NOT NULL, port INTEGER,"
        " client_id INTEGER, server_id INTEGER, status VARCHAR(20), last_seen DATETIME, model VARCHAR(100)",
        CONFIGS,
        False,
    ),
    "reduced": (
        "id INTEGER PRIMARY KEY, name VARCHAR(100), ip_address VARCHAR(45), port INTEGER, status VARCHAR(20),"
        " tb_enabled BOOLEAN, tb_host VARCHAR(255), tb_port INTEGER, tb_token VARCHAR(100)",
        "id INTEGER PRIMARY KEY, meter_id INTEGER, measurement_name VARCHAR(50), obis_code VARCHAR(20),"
        " enabled BOOLEAN, tb_key VARCHAR(50)",
        False,
    ),
    "nothing but NULL": (
        "id INTEGER PRIMARY KEY, name TEXT, ip_address TEXT, port INTEGER, client_id INTEGER, server_id INTEGER,"
        " tb_enabled BOOLEAN, tb_host TEXT, tb_port INTEGER, tb_token TEXT, tb_device_name TEXT, model TEXT,"
        " serial_number TEXT, firmware_version TEXT",
        "id INTEGER PRIMARY KEY, meter_id INTEGER, measurement_name TEXT, obis_code TEXT, enabled BOOLEAN,"
        " sampling_interval FLOAT, tb_key TEXT",
        False,
    ),
}


def make_bridge(path, meters=(), rows=(), variant="full"):
    """Write a database; columns that the variant lacks are left out of the rows."""
    meter_columns, row_columns, has_diagnostics = VARIANTS[variant]
    with sqlite3.connect(path) as connection:
        connection.execute(f"CREATE TABLE meters ({meter_columns})")
        connection.execute(f"CREATE TABLE meter_configs ({row_columns})")
        if has_diagnostics:
            connection.execute("CREATE TABLE dlms_diagnostics (id INTEGER PRIMARY KEY, meter_id INTEGER)")
        for table, entries in (("meters", meters), ("meter_configs", rows)):
            known = {column[1] for column in connection.execute(f"PRAGMA table_info({table})")}
            for entry in entries:
                kept = {key: value for key, value in entry.items() if key in known}
                marks = ", ".join("?" for _ in kept)
                insert = f"INSERT INTO {table} ({', '.join(kept)}) VALUES ({marks})"  # noqa: S608
                connection.execute(insert, list(kept.values()))
    connection.close()
    return path


def meter(number, **more):
    """A meter as the bridge's form makes it."""
    return {
        "id": number,
        "name": f"medidor_{number}",
        "ip_address": f"192.168.1.{126 + number}",
        "port": 3333,
        "client_id": 1,
        "server_id": 1,
        "status": "inactive",
        "tb_enabled": 1,
        "tb_host": "tb.example.com",
        "tb_port": 1883,
        "tb_token": f"TOKEN-CANARY-{number}",
        "tb_device_name": f"medidor_{number}",
        "model": "Microstar P2000-T",
        "serial_number": "00123456",
        "firmware_version": "1.0",
        **more,
    }


def row(number, meter_id, measurement="voltage_l1", obis="1-1:32.7.0", **more):
    return {
        "id": number,
        "meter_id": meter_id,
        "measurement_name": measurement,
        "obis_code": obis,
        "enabled": 1,
        "sampling_interval": 5.0,
        **more,
    }
