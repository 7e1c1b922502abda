from dlms_connector.config.loader import load_document
from dlms_connector.config.settings import ShardSettings
from dlms_connector.config.shard import owner_of, take_share


def fleet(meters):
    entries = [
        {
            "deviceName": f"m{number}",
            "transport": {"host": f"10.0.0.{number // 4}", "serverLogicalAddress": 1 + number % 4},
            "timeseries": ["frequency"],
        }
        for number in range(meters)
    ]
    return load_document({"devices": entries}).devices


def test_the_shares_are_the_fleet_and_lines_stay_together():
    devices = fleet(400)
    shares = [take_share(devices, ShardSettings.model_validate({"index": i, "count": 4})) for i in range(4)]
    assert sorted(d.device_name for share in shares for d in share) == sorted(d.device_name for d in devices)
    lines = [{device.transport.line_key for device in share} for share in shares]
    assert all(not (lines[i] & lines[j]) for i in range(4) for j in range(i))
    assert all(60 <= len(share) <= 140 for share in shares)


def test_a_gateway_more_moves_its_own_share_alone():
    lines = [("tcp", f"10.0.{number // 250}.{number % 250}", "4059") for number in range(2000)]
    before = {line: owner_of(line, 4) for line in lines}
    after = {line: owner_of(line, 5) for line in lines}
    moved = [line for line in lines if before[line] != after[line]]
    assert all(after[line] == 4 for line in moved)
    assert 300 <= len(moved) <= 500


def test_the_owner_is_the_same_on_every_machine_and_release():
    assert [owner_of(("tcp", "192.168.1.127", "3333"), count) for count in (1, 2, 3, 10)] == [0, 0, 2, 9]
    assert [owner_of(("serial", "/dev/ttyUSB0"), count) for count in (1, 2, 3, 10)] == [0, 1, 1, 9]


def test_without_a_shard_everything_is_ours():
    devices = fleet(8)
    assert take_share(devices, None) == devices
