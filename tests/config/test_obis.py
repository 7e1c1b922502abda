import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.obis import Obis

groups = st.integers(0, 255)


@given(st.builds(Obis, groups, groups, groups, groups, groups, groups))
def test_every_notation_of_a_code_reads_back(obis):
    assert Obis.parse(str(obis)) == obis
    assert Obis.parse(".".join(str(group) for group in obis)) == obis
    assert Obis.from_bytes(obis.to_bytes()) == obis


@pytest.mark.parametrize("text", ["1-0:1.8.0*101", "1-0:1.8.0.101", "1-0:1.8.0&101", "1.0.1.8.0.101"])
def test_group_f_is_kept(text):
    assert Obis.parse(text) == Obis(1, 0, 1, 8, 0, 101)


@pytest.mark.parametrize(
    "text", ["1.8.0", "1.0.1.8.0", "1-0:1.8", "1-0:1.8.256", "", "x", "1-0:1.8.0*999", "-1-0:1.8.0"]
)
def test_what_can_be_read_two_ways_or_none_is_refused(text):
    with pytest.raises(ValueError, match="OBIS"):
        Obis.parse(text)


@pytest.mark.parametrize("raw", [b"", b"12345", b"1234567"])
def test_a_logical_name_has_six_bytes(raw):
    with pytest.raises(ValueError, match="6 bytes"):
        Obis.from_bytes(raw)
