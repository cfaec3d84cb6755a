# SPDX-License-Identifier: Apache-2.0
"""The contract of every transactional repository, beyond the five methods."""

import threading
from collections.abc import Iterator

import pytest

from waggle_fsstore.domain.environment import Environment, Idempotency, Status
from waggle_fsstore.domain.errors import (
    CapacityError,
    ConflictError,
    EnvironmentAlreadyExistsError,
    InvalidEnvironmentError,
    StoreClosedError,
)
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.testing.factories import make_environment
from waggle_fsstore.testing.repository import ODD_IDS, RepositoryContract, run_together, spoil
from waggle_fsstore.testing.update import UpdateContract, never

_LIVE = (Status.CREATING, Status.RUNNING, Status.DESTROYING)
_DEAD = (Status.DESTROYED, Status.ERROR)


def _key_of(environment: Environment) -> str:
    assert environment.idempotency is not None
    return environment.idempotency.key


class TransactionalContract(UpdateContract, RepositoryContract):
    """Subclass it and define one fixture: ``repository``, an empty store."""

    def test_create_stores_absent_environment(self, repository: TransactionalRepository) -> None:
        """An absent environment is stored as by ``save``, and its revision returned."""
        environment = make_environment()
        assert repository.create(environment) == 1
        assert repository.find_by_id(environment.id) == environment

    def test_create_of_existing_id_raises(self, repository: TransactionalRepository) -> None:
        """A stored id is refused, and its version stays."""
        environment = make_environment()
        repository.create(environment)
        with pytest.raises(EnvironmentAlreadyExistsError) as caught:
            repository.create(make_environment(id=environment.id))
        assert caught.value.environment_id == environment.id
        assert repository.find_by_id(environment.id) == environment

    def test_capacity_counts_live_environments(self, repository: TransactionalRepository) -> None:
        """Only live environments count towards the capacity, not those in error or destroyed."""
        for status in (*_LIVE, *_DEAD):
            repository.save(make_environment(status=status))
        with pytest.raises(CapacityError) as caught:
            repository.create(make_environment(), capacity=3)
        assert caught.value.capacity == 3
        assert repository.count() == 5
        repository.create(make_environment(), capacity=4)
        assert repository.count() == 6

    def test_existing_id_precedes_capacity(self, repository: TransactionalRepository) -> None:
        """Where both errors apply, the one for the existing id is raised."""
        environment = make_environment()
        repository.create(environment)
        with pytest.raises(EnvironmentAlreadyExistsError):
            repository.create(environment, capacity=0)

    def test_capacity_is_never_exceeded(self, repository: TransactionalRepository) -> None:
        """20 concurrent creates with a capacity of 10 store exactly 10."""
        barrier = threading.Barrier(20)
        refused: list[CapacityError] = []

        def work(_: int) -> None:
            environment = make_environment()
            barrier.wait()
            try:
                repository.create(environment, capacity=10)
            except CapacityError as error:
                refused.append(error)

        run_together(20, work)
        assert repository.count() == 10
        assert len(refused) == 10

    def test_concurrent_creates_store_id_once(self, repository: TransactionalRepository) -> None:
        """Of 10 concurrent creates of one id, exactly one succeeds."""
        barrier = threading.Barrier(10)
        created: list[int] = []
        refused: list[EnvironmentAlreadyExistsError] = []

        def work(number: int) -> None:
            environment = make_environment(id="one", ssh_port=number)
            barrier.wait()
            try:
                repository.create(environment)
                created.append(number)
            except EnvironmentAlreadyExistsError as error:
                refused.append(error)

        run_together(10, work)
        assert len(refused) == 9
        assert [repository.find_by_id("one").ssh_port] == created

    def test_create_of_stored_idempotency_key_raises(
        self, repository: TransactionalRepository
    ) -> None:
        """A stored key is refused with the id of its environment, above the capacity too."""
        environment = make_environment()
        repository.create(environment)
        again = make_environment(idempotency=environment.idempotency)
        other = Idempotency(key=_key_of(environment), arguments="other")
        for new in (again, make_environment(idempotency=other)):
            for capacity in (None, 0):
                with pytest.raises(EnvironmentAlreadyExistsError) as caught:
                    repository.create(new, capacity=capacity)
                assert caught.value.environment_id == environment.id
        assert repository.find_all() == [environment]

    def test_create_without_idempotency_key_is_never_a_repetition(
        self, repository: TransactionalRepository
    ) -> None:
        """Any number of environments may have no key."""
        for _ in range(2):
            repository.create(make_environment(idempotency=None))
        assert repository.count() == 2

    def test_idempotency_key_is_free_once_no_version_has_it(
        self, repository: TransactionalRepository
    ) -> None:
        """A key is free again after its environment is deleted, or stored without it."""
        first, second, third = (make_environment() for _ in range(3))
        second.idempotency = third.idempotency = first.idempotency
        repository.create(first)
        repository.delete(first.id)
        repository.create(second)

        def drop_key(stored: Environment) -> None:
            stored.idempotency = None

        repository.update(second.id, drop_key)
        repository.create(third)
        with pytest.raises(EnvironmentAlreadyExistsError) as caught:
            repository.create(first)
        assert caught.value.environment_id == third.id

    def test_concurrent_creates_store_idempotency_key_once(
        self, repository: TransactionalRepository
    ) -> None:
        """Of 10 concurrent creates with one key, exactly one succeeds, and the others name it."""
        barrier = threading.Barrier(10)
        created: list[str] = []
        refused: list[EnvironmentAlreadyExistsError] = []
        key = Idempotency(key="one", arguments="same")

        def work(_: int) -> None:
            environment = make_environment(idempotency=key)
            barrier.wait()
            try:
                repository.create(environment, capacity=10)
                created.append(environment.id)
            except EnvironmentAlreadyExistsError as error:
                refused.append(error)

        run_together(10, work)
        assert [one.id for one in repository.find_all()] == created
        assert [error.environment_id for error in refused] == created * 9

    def test_conditional_save_replaces_revision(self, repository: TransactionalRepository) -> None:
        """The expected revision is replaced; any other one is a conflict that changes nothing."""
        environment = make_environment()
        first = repository.save(environment)
        environment.status_reason = "second"
        second = repository.save(environment, if_revision=first)
        stale = make_environment(id=environment.id)
        with pytest.raises(ConflictError) as caught:
            repository.save(stale, if_revision=first)
        error = caught.value
        assert (error.environment_id, error.expected, error.actual) == (
            environment.id,
            first,
            second,
        )
        assert repository.find_by_id(environment.id) == environment

    def test_conditional_save_of_revision_0_needs_absent_id(
        self, repository: TransactionalRepository
    ) -> None:
        """Revision 0 means that the id is expected to be absent."""
        environment = make_environment()
        with pytest.raises(ConflictError) as caught:
            repository.save(environment, if_revision=5)
        assert (caught.value.expected, caught.value.actual) == (5, 0)
        assert repository.count() == 0
        repository.save(environment, if_revision=0)
        with pytest.raises(ConflictError):
            repository.save(environment, if_revision=0)

    def test_conditional_save_does_not_resurrect(self, repository: TransactionalRepository) -> None:
        """A conditional save of a deleted version is a conflict: it stays deleted."""
        environment = make_environment()
        revision = repository.save(environment)
        repository.delete(environment.id)
        with pytest.raises(ConflictError):
            repository.save(environment, if_revision=revision)
        assert repository.count() == 0

    def test_save_all_returns_revisions(self, repository: TransactionalRepository) -> None:
        """Any iterable of new and stored ids is stored, and the revisions returned in order."""
        old = make_environment()
        repository.save(old)
        batch = [make_environment(), make_environment(id=old.id), make_environment()]
        assert repository.save_all(environment for environment in batch) == [2, 3, 4]
        assert repository.find_all() == sorted(batch, key=lambda environment: environment.id)

    def test_save_all_accepts_empty_batch(self, repository: TransactionalRepository) -> None:
        """An empty batch stores nothing and returns no revisions."""
        assert repository.save_all([]) == []
        assert repository.count() == 0

    def test_save_all_refuses_repeated_id(self, repository: TransactionalRepository) -> None:
        """An id that occurs twice is refused before anything is written."""
        batch = [make_environment(id="a"), make_environment(id="b"), make_environment(id="a")]
        with pytest.raises(ValueError, match="duplicate"):
            repository.save_all(batch)
        assert repository.count() == 0

    def test_save_all_with_invalid_environment_stores_nothing(
        self, repository: TransactionalRepository
    ) -> None:
        """If one environment is invalid, none of the batch is stored."""
        bad = make_environment()
        bad.ssh_port = -1
        too_large = make_environment()
        too_large.extra["x"] = "y" * (1 << 20)
        for refused in (bad, too_large):
            with pytest.raises(InvalidEnvironmentError):
                repository.save_all([make_environment(), refused, make_environment()])
        assert repository.count() == 0

    def test_save_all_from_raising_iterable_stores_nothing(
        self, repository: TransactionalRepository
    ) -> None:
        """Nothing is stored if the iterable raises half-way."""

        def half() -> Iterator[Environment]:
            yield make_environment()
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            repository.save_all(half())
        assert repository.count() == 0

    def test_on_corrupt_is_not_called_without_bad_documents(
        self, repository: TransactionalRepository
    ) -> None:
        """The callback is called for bad documents only."""
        environment = make_environment()
        repository.save(environment)
        assert repository.find_all(on_corrupt=never) == [environment]
        assert list(repository.iter_all(on_corrupt=never)) == [environment]

    def test_iteration_gives_each_environment_once(
        self, repository: TransactionalRepository
    ) -> None:
        """All environments are given once each, whatever their ids; an empty store gives none."""
        assert list(repository.iter_all()) == []
        repository.save_all([make_environment(id=name) for name in ODD_IDS])
        found = sorted(repository.iter_all(), key=lambda environment: environment.id)
        assert found == repository.find_all()
        assert [one.revision for one in found] == [one.revision for one in repository.find_all()]

    def test_iteration_gives_copies(self, repository: TransactionalRepository) -> None:
        """Changing what an iteration gives leaves the store unchanged."""
        expected = make_environment()
        repository.save(expected)
        spoil(next(repository.iter_all()))
        assert list(repository.iter_all()) == repository.find_all() == [expected]

    def test_iteration_allows_changes(self, repository: TransactionalRepository) -> None:
        """What is stored throughout comes once, though others are changed at each step."""
        kept = {f"kept-{number}" for number in range(5)}
        gone = {f"gone-{number}" for number in range(5)}
        repository.save_all([make_environment(id=name) for name in kept | gone])
        found: list[str] = []
        for step, environment in enumerate(repository.iter_all()):
            found.append(environment.id)
            repository.save(make_environment(id=f"new-{step}"))
            repository.save_all([make_environment(id=name) for name in kept])
            if gone:
                repository.delete(gone.pop())
        assert len(found) == len(set(found))
        assert kept <= set(found)

    def test_closed_store_refuses_calls(self, repository: TransactionalRepository) -> None:
        """After ``close``, every call except ``close`` raises."""
        environment = make_environment(id="a")
        with repository as entered:
            assert entered is repository
            repository.save(environment)
        repository.close()
        calls = (
            lambda: repository.save(environment),
            lambda: repository.find_by_id("a"),
            lambda: repository.find_all(),
            lambda: repository.iter_all(),
            lambda: repository.delete("a"),
            lambda: repository.count(),
            lambda: repository.create(make_environment()),
            lambda: repository.update("a", never),
            lambda: repository.save_all([environment]),
            lambda: repository.__enter__(),
        )
        for call in calls:
            with pytest.raises(StoreClosedError):
                call()
