"""Tables of keys: every hash under a key that is asked for is found, however many there are."""

import numpy as np
import pytest

from video.splitting import candidates


@pytest.mark.parametrize("pairs_at_once", [1, 3, 1000])
def test_a_table_gives_every_owner_of_a_key_once(
    monkeypatch: pytest.MonkeyPatch, pairs_at_once: int
) -> None:
    monkeypatch.setattr(candidates, "_PAIRS_AT_ONCE", pairs_at_once)
    keys = np.array([7, 7, 7, 0, 9, 7, 9, 2])
    owners = np.array([0, 0, 1, 1, 2, 3, 3, 3])
    asked = np.array([[7, 2], [5, 0], [9, 8], [7, 9]])
    table = candidates._Table(keys, owners)

    batches = list(table.look_up(asked))

    found = [
        (int(query), int(owners[entry]), int(keys[entry]))
        for queries, entries in batches
        for query, entry in zip(queries, entries, strict=True)
    ]
    expected = {
        (query, owner, key)
        for query, row in enumerate(asked.tolist())
        for owner, key in zip(owners.tolist(), keys.tolist(), strict=True)
        if key in row
    }
    assert len(found) == len(expected)
    assert set(found) == expected
