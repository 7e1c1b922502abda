import pytest

from dlms_connector.config.catalogue import CATALOGUE, default_class
from dlms_connector.obis import Obis


@pytest.mark.parametrize(
    ("name", "obis", "unit"),
    [
        ("voltage_l1", "1-0:32.7.0", "V"),
        ("voltage_l3", "1-0:72.7.0", "V"),
        ("current_l2", "1-0:51.7.0", "A"),
        ("current_n", "1-0:91.7.0", "A"),
        ("frequency", "1-0:14.7.0", "Hz"),
        ("active_power", "1-0:1.7.0", "W"),
        ("active_power_l2", "1-0:41.7.0", "W"),
        ("active_power_export", "1-0:2.7.0", "W"),
        ("reactive_power_l3", "1-0:63.7.0", "var"),
        ("apparent_power_l1", "1-0:29.7.0", "VA"),
        ("power_factor_l1", "1-0:33.7.0", ""),
        ("active_energy", "1-0:1.8.0", "Wh"),
        ("active_energy_t4", "1-0:1.8.4", "Wh"),
        ("active_energy_export", "1-0:2.8.0", "Wh"),
        ("reactive_energy_export", "1-0:4.8.0", "varh"),
        ("apparent_energy", "1-0:9.8.0", "VAh"),
        ("clock", "0-0:1.0.0", ""),
    ],
)
def test_names_have_the_codes_of_the_obis_list(name, obis, unit):
    assert str(CATALOGUE[name].obis) == obis
    assert CATALOGUE[name].unit == unit


@pytest.mark.parametrize(
    ("obis", "class_id"),
    [
        ("0-0:1.0.0", 8),
        ("0-3:1.0.0", 8),
        ("0-0:96.1.0", 1),
        ("0-0:42.0.0", 1),
        ("0-0:43.1.0", 1),
        ("0-0:43.0.0", 64),
        ("0-0:40.0.0", 15),
        ("0-0:96.3.10", 70),
        ("0-0:17.0.0", 71),
        ("0-0:13.0.0", 20),
        ("0-0:10.0.100", 9),
        ("0-0:98.1.0", 7),
        ("0-0:99.98.0", 7),
        ("0-1:24.1.0", 72),
        ("0-1:24.2.1", 4),
        ("1-0:99.1.0", 7),
        ("1-0:0.2.0", 1),
        ("1-0:0.0.0", 1),
        ("1-0:1.8.0", 3),
        ("1-1:32.7.0", 3),
        ("1-0:1.6.0", 4),
        ("1-0:1.4.0", 5),
        ("1-0:1.8.0*101", 3),
    ],
)
def test_a_code_without_a_class_has_its_usual_one(obis, class_id):
    assert default_class(Obis.parse(obis)) == class_id


def test_identifiers_of_the_catalogue_stay_text():
    assert CATALOGUE["serialNumber"].as_definition()["type"] == "text"
