"""What holds for every test: the books of the meters that it read balance."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.books import Books


@pytest.fixture(autouse=True)
def books() -> Iterator[Books]:
    """Asked for first, so it is checked last: pollers that other fixtures run have ended by then."""
    made = Books()
    with pytest.MonkeyPatch.context() as patch:
        made.watch(patch)
        yield made
    made.check()
