import importlib
import json

import pytest

from dlms_connector.cli.main import main
from tests.support.thingsboard_rest import PASSWORD, USER, rest_stand_in

START = 1_714_521_600_000
PERIOD = 5_000
COUNT = 720


def export(path, keep=lambda n: True, factor=1.0, devices=("m1", "m2")):
    lines = ["device,key,ts,value"]
    for device in devices:
        for n in range(COUNT):
            if keep(n):
                ts = START + n * PERIOD
                lines += [
                    f"{device},voltage_l1,{ts},{230 * factor + n % 3}",
                    f"{device},active_energy,{ts},{1e6 + n}",
                ]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("TB_PASSWORD", PASSWORD)
    monkeypatch.setenv("TB_USERNAME", USER)

    def compare(*words):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *words])
        out, err = capfd.readouterr()
        assert PASSWORD not in out + err
        return ended.value.code, out + err

    return compare


def test_two_exports_with_report_and_plot(run, tmp_path):
    left, right = export(tmp_path / "bridge.csv", lambda n: n % 3), export(tmp_path / "gateway.csv")
    code, out = run(left, right, "--period", "5s", "--report", "r.md", "--plot", "p.png")
    assert code == 0
    assert "66.7% (480)" in out
    assert "100.0% (720)" in out
    assert out.count("go on m") == 2
    report = (tmp_path / "r.md").read_text()
    assert "| m1 | **go on** |" in report
    assert "2024-05-01 00:00:00 UTC" in report
    plot = (tmp_path / "p.png").read_bytes()
    assert plot.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(plot) > 5_000


def test_a_meter_to_roll_back_is_exit_1_and_comes_first(run, tmp_path):
    left = export(tmp_path / "a.csv")
    right = export(tmp_path / "b.csv", lambda n: n % 2, devices=("m1",))
    code, out = run(left, right, "--json", "--period", "5s")
    results = json.loads(out)
    assert code == 1
    assert [result["verdict"] for result in results] == ["roll back", "roll back"]
    assert results[0]["keys"][0]["right"]["share"] == pytest.approx(0.5, abs=0.01)
    assert "nothing was delivered" in " ".join(results[1]["reasons"])


def test_the_periods_come_from_the_configuration(run, tmp_path):
    (tmp_path / "c.json").write_text(
        json.dumps(
            {
                "defaults": {"template": "microstar", "client": {"password": "${env:P}"}, "pollPeriod": 2500},
                "devices": [{"deviceName": "m1", "transport": {"host": "h"}, "timeseries": ["voltage_l1"]}],
            }
        )
    )
    paths = [export(tmp_path / name) for name in ("a.csv", "b.csv")]
    _, out = run(*paths, "--config", "c.json", "--device", "m1", "--keys", "voltage_l1", "--json")
    ((key,),) = [result["keys"] for result in json.loads(out)]
    assert (key["period_ms"], key["left"]["share"]) == (2500, 0.5)


def test_one_device_before_and_after_a_wave_from_thingsboard(run):
    with rest_stand_in() as server:
        identity = server.add("medidor_1", "t")
        later = [START + n * PERIOD for n in range(2 * COUNT)]
        server.series[identity] = {
            "active_energy": [(ts, 1e6 + n) for n, ts in enumerate(later) if n >= COUNT or n % 3],
            "dlms_latencyMs": [(ts, 80) for ts in later[COUNT::12]],
        }
        windows = [f"{START}..{START + COUNT * PERIOD}", f"{later[COUNT]}..{later[-1] + PERIOD}"]
        words = (
            "--tb-url",
            server.url,
            "--device",
            "medidor_1",
            "--before",
            windows[0],
            "--after",
            windows[1],
        )
        code, out = run(*words, "--period", "5s", "--json")
        (result,) = json.loads(out)
        assert (code, result["verdict"]) == (0, "go on")
        (key,) = result["keys"]
        assert (key["left"]["count"], key["right"]["count"]) == (480, 720)
        assert key["difference"]["step"] == 1
        assert key["right"]["latency_ms"] == 80
        code, out = run(*words[:2], "--device", "nobody", *words[4:])
        assert code == 1
        assert 'no device called "nobody"' in out


def test_single_meter_exports_named_after_their_files_are_one_meter(run, tmp_path):
    for name in ("bridge", "gateway"):
        rows = "".join(f"{START + n * PERIOD},{230}\n" for n in range(60))
        (tmp_path / f"{name}.csv").write_text(f"ts,voltage_l1\n{rows}")
    code, out = run("bridge.csv", "gateway.csv", "--json")
    assert code == 0
    assert [result["right_name"] for result in json.loads(out)] == ["gateway"]


def test_a_plot_without_matplotlib_is_told(run, tmp_path, monkeypatch):
    def no_matplotlib(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    real = importlib.import_module
    monkeypatch.setattr("dlms_connector.migration.report.importlib.import_module", no_matplotlib)
    paths = [export(tmp_path / name) for name in ("a.csv", "b.csv")]
    code, out = run(*paths, "--plot", "p.png")
    assert code == 1
    assert "pip install 'dlms-connector[plot]'" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "give two exports"),
        (("a.csv",), "two exports are compared"),
        (("a.csv", "none.csv"), "cannot be read"),
        (("a.csv", "a.csv", "--period", "soon"), "is no duration"),
        (("a.csv", "a.csv", "--last", "1h", "--before", "1..2"), "leave out --before"),
        (("a.csv", "a.csv", "--before", "1..2"), "go together"),
        (("a.csv", "a.csv", "--before", "2..1", "--after", "1..2"), "ends before it starts"),
        (("a.csv", "a.csv", "--before", "x..1", "--after", "1..2"), "--before:"),
        (("a.csv", "a.csv", "--labels", "one"), "two names"),
        (("a.csv", "a.csv", "--config", "none.json"), "cannot be read"),
        (("--tb-url", "http://127.0.0.1:9", "--device", "x"), "say --device, and --last"),
        (("a.csv", "a.csv", "--report", "no/such/r.md"), "cannot be written"),
        (("a.csv", "a.csv", "--plot", "no/such/p.png"), "cannot be written"),
    ],
)
def test_mistakes_are_told_in_a_sentence(run, tmp_path, words, told):
    export(tmp_path / "a.csv")
    code, out = run(*words)
    assert code == 1
    assert told in out
    assert "Traceback" not in out
