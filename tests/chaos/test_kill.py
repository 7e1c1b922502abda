"""kill -9 of the real gateway while it reads load profiles; `benchmarks/outages.py` does it twenty times."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import outages


@pytest.mark.contract
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_record_has_no_hole_and_no_wrong_row(tmp_path: Path) -> None:
    result = outages.kills(tmp_path, count=4, meters=4, seed=11)
    assert result["rows wanted"] > 2000
    assert result["holes"] == 0
    assert result["wrong rows"] == 0
