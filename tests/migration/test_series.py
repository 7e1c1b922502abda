import pytest

from dlms_connector.errors import CommandError
from dlms_connector.migration.series import Point, number_or_text, read_export, time_ms

TS = 1_714_521_600_000  # 2024-05-01T00:00:00Z
ONE = {("m", "v"): [Point(TS, 230.1), Point(TS + 1000, 230.2)]}

FORMS = {
    "long.csv": f"device,key,ts,value\nm,v,{TS},230.1\nm,v,{TS + 1000},230.2\n",
    "unsorted and twice.csv": f"device,key,ts,value\nm,v,{TS + 1000},9\nm,v,{TS},230.1\nm,v,{TS + 1000},230.2\n",
    "m.csv": "Timestamp;v\n2024-05-01 00:00:00;230.1\n2024-05-01T00:00:01Z;230.2\n",
    "offset.csv": "Time\tdevice\tv\n2024-04-30T19:00:00-05:00\tm\t230.1\n2024-04-30T19:00:01-05:00\tm\t230.2\n",
    "m.json": f'{{"v": [{{"ts": {TS + 1000}, "value": "230.2"}}, {{"ts": {TS}, "value": 230.1}}]}}',
    "devices.json": f'{{"m": {{"v": [{{"ts": {TS}, "value": 230.1}}, {{"ts": {TS + 1000}, "value": 230.2}}]}}}}',
    "gateway.json": (
        f'{{"m": [{{"ts": {TS}, "values": {{"v": 230.1}}}}, {{"ts": {TS + 1000}, "values": {{"v": 230.2}}}}]}}'
    ),
    "records.json": (
        f'[{{"device": "m", "key": "v", "ts": {TS}, "value": 230.1}},'
        f' {{"device": "m", "key": "v", "ts": {TS + 1000}, "value": 230.2}}]'
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_export_gives_the_same(tmp_path, name):
    (tmp_path / name).write_text(FORMS[name])
    assert read_export(tmp_path / name) == ONE


def test_the_time_of_reception_is_read_where_it_is_there(tmp_path):
    (tmp_path / "m.csv").write_text(f"key,ts,value,receivedTs\nv,{TS},1,{TS + 250}\nv,{TS + 9},2,\n")
    points = read_export(tmp_path / "m.csv")["m", "v"]
    assert [point.received_ms for point in points] == [TS + 250, None]
    assert list(read_export(tmp_path / "m.csv", device="other")) == [("other", "v")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "no column of times"),
        ("ts,key,value\nyesterday,v,1\n", "line 2"),
        ("{", "not JSON"),
        ('{"v": [{"value": 1}]}', "'ts'"),
        ('{"v": 5}', "cannot be understood"),
        ("[5]", "cannot be understood"),
        ("[[]]", "cannot be understood"),
    ],
)
def test_what_is_no_export_is_told(tmp_path, content, words):
    (tmp_path / "x").write_text(content)
    with pytest.raises(CommandError, match=words):
        read_export(tmp_path / "x")


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(CommandError, match="cannot be read"):
        read_export(tmp_path / "x")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1.5", 1.5), (2, 2.0), ("on", "on"), (True, "true"), ("NaN", "NaN"), (None, "none")],
)
def test_numbers_are_numbers_and_the_rest_is_text(value, expected):
    assert number_or_text(value) == expected


def test_a_date_without_an_offset_is_utc():
    assert time_ms("2024-05-01T00:00:00") == time_ms(TS) == time_ms("2024-05-01T00:00:00Z") == TS
