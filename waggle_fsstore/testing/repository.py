# SPDX-License-Identifier: Apache-2.0
"""The contract of every repository: the five methods."""

import copy
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import (
    EnvironmentNotFoundError,
    InvalidEnvironmentError,
    InvalidEnvironmentIdError,
)
from waggle_fsstore.domain.repository import Repository
from waggle_fsstore.testing.factories import make_environment

#: Ids that a careless store treats as a path, a pattern, an option or another id.
ODD_IDS = (
    "../../etc/passwd",
    "/abs/olute",
    "..",
    ".",
    ".hidden",
    "trailing.",
    "a/b",
    "a\\b",
    "C:\\x",
    "con",
    "nul.txt",
    "UPPER",
    "upper",
    "e\u0301",
    "\u00e9",
    "%2e%2e",
    "-rf",
    " ",
    "*",
    "line\nbreak",
    "\x1b[31m",
    "~",
    "x" * 200,
    "X" * 200,
    "\U0001f41d" * 50,
)

#: Strings that are not valid ids.
INVALID_IDS = ("", "nul\0", "\ud800", "x" * 201, "\u00e9" * 101, "x" * 10_000)


_FIELDS = tuple(field.name for field in dataclasses.fields(Environment))


class RepositoryContract:
    """Subclass it and define one fixture: ``repository``, an empty store."""

    def test_saved_environment_is_found(self, repository: Repository) -> None:
        """A saved environment is found with every field unchanged."""
        environment = make_environment()
        repository.save(environment)
        assert repository.find_by_id(environment.id) == environment

    def test_minimal_environment_is_found(self, repository: Repository) -> None:
        """An environment with default values is found unchanged."""
        environment = Environment(name="data-analysis", runtime="python")  # type: ignore[arg-type]
        repository.save(environment)
        assert repository.find_by_id(environment.id) == environment

    def test_find_of_missing_id_raises(self, repository: Repository) -> None:
        """An id that is not stored raises a LookupError that names the id."""
        repository.save(make_environment())
        with pytest.raises(EnvironmentNotFoundError) as caught:
            repository.find_by_id("missing")
        assert caught.value.environment_id == "missing"
        assert isinstance(caught.value, LookupError)

    def test_second_save_replaces_version(self, repository: Repository) -> None:
        """Saving an id again replaces its version, and the count stays the same."""
        environment = make_environment()
        repository.save(environment)
        environment.status = Status.ERROR
        environment.labels = {"new": "label"}
        repository.save(environment)
        assert repository.find_by_id(environment.id) == environment
        assert repository.count() == 1

    def test_find_all_of_empty_store_is_empty(self, repository: Repository) -> None:
        """An empty store returns an empty list."""
        assert repository.find_all() == []

    def test_find_all_is_sorted(self, repository: Repository) -> None:
        """All environments are listed, sorted by id in any order of saving."""
        environments = [make_environment(id=name) for name in ("b", "a-1", "c", "a", "B")]
        for environment in environments:
            repository.save(environment)
        expected = sorted(environments, key=lambda environment: environment.id)
        assert repository.find_all() == expected

    def test_deleted_environment_is_gone(self, repository: Repository) -> None:
        """A deleted environment is gone; the others stay."""
        gone, kept = make_environment(), make_environment()
        repository.save(gone)
        repository.save(kept)
        repository.delete(gone.id)
        with pytest.raises(EnvironmentNotFoundError):
            repository.find_by_id(gone.id)
        assert repository.find_all() == [kept]

    def test_delete_of_missing_id_raises(self, repository: Repository) -> None:
        """Deleting an id that is not stored raises, and so does deleting an id twice."""
        environment = make_environment()
        with pytest.raises(EnvironmentNotFoundError):
            repository.delete(environment.id)
        repository.save(environment)
        repository.delete(environment.id)
        with pytest.raises(EnvironmentNotFoundError) as caught:
            repository.delete(environment.id)
        assert caught.value.environment_id == environment.id

    def test_count_follows_changes(self, repository: Repository) -> None:
        """The count follows saves, repeated saves and deletes."""
        counts = [repository.count()]
        environments = [make_environment() for _ in range(3)]
        for environment in environments:
            repository.save(environment)
            repository.save(environment)
            counts.append(repository.count())
        repository.delete(environments[1].id)
        counts.append(repository.count())
        assert counts == [0, 1, 2, 3, 2]

    def test_saved_argument_is_copied(self, repository: Repository) -> None:
        """Changing a saved environment, including nested values, leaves the store unchanged."""
        environment = make_environment()
        expected = copy.deepcopy(environment)
        repository.save(environment)
        spoil(environment)
        assert repository.find_by_id(expected.id) == expected

    def test_results_are_copies(self, repository: Repository) -> None:
        """Changing a returned environment, including nested values, leaves the store unchanged."""
        environment = make_environment()
        expected = copy.deepcopy(environment)
        repository.save(environment)
        spoil(repository.find_by_id(environment.id))
        spoil(repository.find_all()[0])
        assert repository.find_by_id(environment.id) == expected
        assert repository.find_all() == [expected]

    def test_save_leaves_argument_unchanged(self, repository: Repository) -> None:
        """Saving leaves its argument unchanged, including its revision."""
        environment = make_environment()
        before = copy.deepcopy(environment)
        repository.save(environment)
        assert environment == before
        assert environment.revision == 0

    def test_subclass_is_stored_as_environment(self, repository: Repository) -> None:
        """An instance of a subclass comes back as an Environment."""

        class Special(Environment):
            pass

        environment = make_environment()
        repository.save(Special(**{name: getattr(environment, name) for name in _FIELDS}))
        found = repository.find_by_id(environment.id)
        assert type(found) is Environment
        assert found == environment

    def test_revisions_of_fresh_store_count_from_1(self, repository: Repository) -> None:
        """A fresh store numbers its versions 1, 2, 3, and returns the numbers with its results."""
        one, two = make_environment(), make_environment()
        revisions = [repository.save(one), repository.save(two), repository.save(one)]
        assert revisions == [1, 2, 3]
        assert repository.find_by_id(one.id).revision == 3
        assert [found.revision for found in repository.find_all()] == [3, 2]

    def test_revisions_rise_across_deletes(self, repository: Repository) -> None:
        """A revision is never used twice, even after its id was deleted."""
        environment = make_environment()
        first = repository.save(environment)
        repository.delete(environment.id)
        second = repository.save(environment)
        repository.delete(environment.id)
        third = repository.save(make_environment())
        assert 0 < first < second < third

    def test_revision_of_the_argument_is_ignored(self, repository: Repository) -> None:
        """A plain save ignores the revision of its argument: the last writer wins."""
        environment = make_environment(revision=77)
        repository.save(environment)
        assert repository.save(environment) == 2

    @pytest.mark.parametrize("environment_id", ODD_IDS)
    def test_odd_ids_are_kept_apart(self, repository: Repository, environment_id: str) -> None:
        """Every valid id is kept apart from all others, however it is spelled."""
        environment = make_environment(id=environment_id)
        others = [make_environment(id=other) for other in ODD_IDS if other != environment_id]
        for other in others:
            repository.save(other)
        repository.save(environment)
        assert repository.find_by_id(environment_id) == environment
        assert repository.count() == len(ODD_IDS)
        repository.delete(environment_id)
        assert repository.find_all() == sorted(others, key=lambda other: other.id)

    @pytest.mark.parametrize("environment_id", INVALID_IDS)
    def test_invalid_ids_are_refused(self, repository: Repository, environment_id: str) -> None:
        """An invalid id is refused on saving, and is not found otherwise."""
        environment = make_environment()
        environment.id = environment_id
        with pytest.raises(InvalidEnvironmentIdError):
            repository.save(environment)
        with pytest.raises(EnvironmentNotFoundError):
            repository.find_by_id(environment_id)
        with pytest.raises(EnvironmentNotFoundError):
            repository.delete(environment_id)
        assert repository.count() == 0

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("ssh_port", 65_536),
            ("ssh_port", -1),
            ("ssh_port", True),
            ("runtime", "cobol"),
            ("status", "asleep"),
            ("name", None),
            ("name", "\udc80"),
            ("labels", {"n": 1}),
            ("labels", {1: "n"}),
            ("extra", {"id": "other"}),
            ("extra", {"checksum": "0"}),
            ("extra", {"x": float("nan")}),
            ("extra", {"x": 2**64}),
            ("extra", {"x": (1, 2)}),
            ("created_at", "2026-01-01"),
            ("timeout", 30),
            ("extra", {"x": "y" * (1 << 20)}),
        ],
    )
    def test_bad_value_is_refused(self, repository: Repository, field: str, value: object) -> None:
        """An invalid value is refused on saving, by field name, and nothing is stored."""
        environment = make_environment()
        repository.save(environment)
        setattr(environment, field, value)
        with pytest.raises(InvalidEnvironmentError) as caught:
            repository.save(environment)
        assert caught.value.field == field
        assert repository.find_by_id(environment.id).revision == 1

    def test_50_concurrent_threads_lose_nothing(self, repository: Repository) -> None:
        """50 threads that save, find, list, count and delete concurrently lose nothing."""
        workers = 50
        shared = make_environment(id="shared")
        repository.save(shared)
        barrier = threading.Barrier(workers)

        def work(number: int) -> None:
            mine = make_environment(id=f"mine-{number}")
            barrier.wait()
            repository.save(mine)
            repository.save(make_environment(id="shared", ssh_port=number))
            assert repository.find_by_id("shared").name.startswith("name ")
            assert mine in repository.find_all()
            assert repository.count() >= 2
            if number % 2:
                repository.delete(mine.id)

        run_together(workers, work)
        kept = {f"mine-{number}" for number in range(0, workers, 2)} | {"shared"}
        assert {environment.id for environment in repository.find_all()} == kept
        assert repository.count() == len(kept)


def run_together(workers: int, work: Callable[[int], object]) -> None:
    """Run ``work(0)`` to ``work(workers - 1)``, each in a thread; raise the first exception."""
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work, number) for number in range(workers)]:
            done.result()


def spoil(environment: Environment) -> None:
    """Change an environment in place, including its nested values."""
    environment.name = "spoilt"
    environment.labels["team"] = "spoilt"
    environment.labels["more"] = "spoilt"
    environment.extra["colour"][1]["depth"] = "spoilt"
    environment.extra["more"] = "spoilt"
