# SPDX-License-Identifier: Apache-2.0
"""The contract of ``update``."""

import threading
from typing import NoReturn

import pytest

from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    CapacityError,
    EnvironmentNotFoundError,
    InvalidEnvironmentError,
)
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.testing.factories import make_environment
from waggle_fsstore.testing.repository import run_together


class UpdateContract:
    """The part of :class:`TransactionalContract` that is about ``update``."""

    def test_update_stores_change(self, repository: TransactionalRepository) -> None:
        """The change is stored, and the stored copy returned with its revision."""
        environment = make_environment()
        repository.save(environment)

        def change(copy: Environment) -> str:
            copy.labels["seen"] = "yes"
            return "ignored"

        updated = repository.update(environment.id, change)
        assert updated.labels == {**environment.labels, "seen": "yes"}
        assert updated.revision == 2
        assert repository.find_by_id(environment.id) == updated
        assert repository.find_by_id(environment.id).revision == 2

    def test_update_shares_nothing(self, repository: TransactionalRepository) -> None:
        """The argument of ``change`` and the result of ``update`` share nothing with the store."""
        repository.save(make_environment(id="a"))
        given: list[Environment] = []
        returned = repository.update("a", given.append)
        expected = repository.find_by_id("a")
        for leak in (*given, returned):
            leak.labels["leak"] = "yes"
            leak.extra["colour"].append("leak")
        assert repository.find_by_id("a") == expected

    def test_update_of_missing_id_raises(self, repository: TransactionalRepository) -> None:
        """An update of an id that is not stored raises, and ``change`` does not run."""
        with pytest.raises(EnvironmentNotFoundError):
            repository.update("missing", never)

    def test_update_passes_on_exception(self, repository: TransactionalRepository) -> None:
        """An exception of ``change`` is passed on, and nothing is stored."""
        repository.save(make_environment(id="a"))
        with pytest.raises(ZeroDivisionError):
            repository.update("a", lambda copy: 1 // (copy.ssh_port - copy.ssh_port))
        assert repository.find_by_id("a").revision == 1
        repository.update("a", Environment.touch)

    def test_update_keeps_capacity(self, repository: TransactionalRepository) -> None:
        """A change that makes an environment live needs room for it; any other change does not."""
        repository.save(make_environment(id="a", status=Status.ERROR))
        repository.save(make_environment(id="b", status=Status.RUNNING))

        def run(copy: Environment) -> None:
            copy.status = Status.RUNNING

        with pytest.raises(CapacityError) as caught:
            repository.update("a", run, capacity=1)
        assert caught.value.capacity == 1
        assert repository.find_by_id("a").status is Status.ERROR
        repository.update("a", Environment.touch, capacity=0)
        repository.update("b", run, capacity=0)
        assert repository.update("a", run, capacity=2).is_running

    def test_update_refuses_new_id(self, repository: TransactionalRepository) -> None:
        """An update cannot move a version to another id."""
        repository.save(make_environment(id="a"))
        with pytest.raises(InvalidEnvironmentError) as caught:
            repository.update("a", lambda copy: setattr(copy, "id", "b"))
        assert caught.value.field == "id"
        assert [found.id for found in repository.find_all()] == ["a"]

    def test_update_refuses_invalid_value(self, repository: TransactionalRepository) -> None:
        """The result of an update is checked like the argument of ``save``."""
        repository.save(make_environment(id="a"))
        with pytest.raises(InvalidEnvironmentError) as caught:
            repository.update("a", lambda copy: setattr(copy, "ssh_port", 70_000))
        assert caught.value.field == "ssh_port"
        assert repository.find_by_id("a").revision == 1

    def test_concurrent_updates_lose_no_change(self, repository: TransactionalRepository) -> None:
        """All of 200 updates in 8 threads are in the result."""
        repository.save(make_environment(id="a", ssh_port=0))
        barrier = threading.Barrier(8)

        def work(_: int) -> None:
            barrier.wait()
            for _ in range(25):
                repository.update("a", lambda copy: setattr(copy, "ssh_port", copy.ssh_port + 1))

        run_together(8, work)
        assert repository.find_by_id("a").ssh_port == 200

    def test_update_runs_again_on_missed_version(self, repository: TransactionalRepository) -> None:
        """A version stored in the meantime is not overwritten: ``change`` runs again on it."""
        repository.save(make_environment(id="a", ssh_port=1))
        seen: list[int] = []

        def change(copy: Environment) -> None:
            seen.append(copy.ssh_port)
            if len(seen) == 1:
                other = threading.Thread(
                    target=repository.save, args=[make_environment(id="a", ssh_port=2)]
                )
                other.start()
                other.join()
            copy.status_reason = "changed"

        updated = repository.update("a", change)
        assert seen == [1, 2]
        assert (updated.ssh_port, updated.status_reason) == (2, "changed")

    def test_update_does_not_resurrect(self, repository: TransactionalRepository) -> None:
        """An environment that is deleted during its update stays deleted."""
        repository.save(make_environment(id="a"))

        def change(_: Environment) -> None:
            other = threading.Thread(target=repository.delete, args=["a"])
            other.start()
            other.join()

        with pytest.raises(EnvironmentNotFoundError):
            repository.update("a", change)
        assert repository.count() == 0

    def test_update_succeeds_despite_conflicts(self, repository: TransactionalRepository) -> None:
        """An update that conflicts repeatedly succeeds in the end."""
        repository.save(make_environment(id="a", ssh_port=0))
        runs: list[int] = []
        writers: list[threading.Thread] = []

        def change(copy: Environment) -> None:
            runs.append(copy.ssh_port)
            writer = threading.Thread(
                target=repository.save, args=[make_environment(id="a", ssh_port=len(runs))]
            )
            writer.start()
            # The last run holds the lock: its writer has to wait until that run has ended.
            writer.join(timeout=0.2)
            writers.append(writer)

        updated = repository.update("a", change)
        for writer in writers:
            writer.join()
        assert updated.ssh_port == runs[-1]
        assert repository.find_by_id("a").ssh_port == len(runs)

    @pytest.mark.parametrize(
        "write", ["save", "create", "save_all", "delete", "delete missing", "update", "close"]
    )
    def test_update_refuses_write_inside(
        self, repository: TransactionalRepository, write: str
    ) -> None:
        """Writing to or closing the same store inside ``change`` raises; reading works."""
        repository.save(make_environment(id="a"))
        arguments: dict[str, list[object]] = {
            "save": [make_environment()],
            "create": [make_environment()],
            "save_all": [[make_environment()]],
            "delete": ["a"],
            "delete missing": ["missing"],
            "close": [],
            "update": ["a", never],
        }

        def change(copy: Environment) -> None:
            assert repository.find_by_id("a").id == copy.id
            assert len(repository.find_all()) == repository.count() == 1
            getattr(repository, write.split()[0])(*arguments[write])

        with pytest.raises(RuntimeError, match="update"):
            repository.update("a", change)
        assert [found.revision for found in repository.find_all()] == [1]
        repository.save(make_environment(id="a"))


def never(_: object) -> NoReturn:
    """Fail a test: this callback must not be called."""
    raise AssertionError("must not be called")
