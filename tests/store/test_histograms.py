# SPDX-License-Identifier: Apache-2.0
"""Histograms: what a store measures of its changes and of its syncs."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from waggle_fsstore import EnvironmentAlreadyExistsError, FileStore
from waggle_fsstore.domain.histogram import Histogram
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.testing import make_environment


def test_durations_fall_into_buckets() -> None:
    """A bound belongs to its bucket; the last bucket has none."""
    histogram = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        histogram.add(seconds)
    assert histogram.counts == [2, 1, 1]
    assert histogram.count == 4
    assert histogram.seconds == pytest.approx(7.65)


def test_changes_and_syncs_are_measured(tmp_path: Path) -> None:
    """Each change is measured, with its one sync; one that is refused is no change."""
    with FileStore(tmp_path / "store") as store:
        environment = make_environment()
        store.create(environment)
        saves, syncs = store.saves.count, store.syncs.count
        assert saves == 1
        store.save(environment)
        with pytest.raises(EnvironmentAlreadyExistsError):
            store.create(environment)
        assert (store.saves.count, store.syncs.count) == (saves + 1, syncs + 1)
        assert store.saves.seconds >= store.syncs.seconds / 2 > 0


@pytest.mark.parametrize("durable", [True, False])
def test_only_syncs_are_measured_that_made_something_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool
) -> None:
    """One that fails, or is left out, takes no time that could be compared."""
    disk = Disk(durable=durable)
    with open(tmp_path / "file", "wb") as file:
        disk.sync(file.fileno())
        disk.sync_dir(str(tmp_path))
        assert disk.syncs.count == (2 if durable else 0)

        def fail(_: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fail, raising=False)
        monkeypatch.setattr(os, "fsync", fail)
        with suppress(OSError):
            disk.sync(file.fileno())
        with suppress(OSError):
            disk.sync_dir(str(tmp_path))
    assert disk.syncs.count == (2 if durable else 0)
