# SPDX-License-Identifier: Apache-2.0
"""Metrics: what ``/metrics`` says about a server, in the text format of Prometheus.

A label has only values that the program or the operator has chosen: no ids, and nothing that
comes from a client.
"""

import platform
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from waggle_fsstore import __version__
from waggle_fsstore.domain.histogram import OF_A_CALL, Histogram
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.server.figures import Figures, Survey
from waggle_fsstore.server.sessions import Sessions
from waggle_fsstore.service.environments import EnvironmentService
from waggle_fsstore.service.tally import Tally

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

# By the values of the labels.
_Samples = Mapping[tuple[str, ...], float]


class CallDurations:
    """How long the calls of tools took, by tool and outcome."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, ...], Histogram] = {}

    def add(self, tool: str, outcome: str, seconds: float) -> None:
        """Count a call."""
        self._of(tool, outcome).add(seconds)
        self._of(tool, "failed")  # Begins with 0: Prometheus sees no increase to a first value.

    def _of(self, tool: str, outcome: str) -> Histogram:
        return self.found.setdefault((tool, outcome), Histogram(OF_A_CALL))


class Metrics(Collector):
    """The metrics of one server; a process may have several."""

    def __init__(
        self,
        service: EnvironmentService,
        repository: TransactionalRepository,
        survey: Survey,
        sessions: Sessions,
        calls: CallDurations,
        capacity: int,
    ) -> None:
        self._tally = service.tally
        self._repository = repository
        self._survey = survey
        self._sessions = sessions
        self._calls = calls
        self._capacity = capacity
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Return the page. Takes long where the store is large or slow."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        figures = self._survey.figures()
        yield from _of_server(figures)
        yield _gauge(
            "waggle_environments_limit",
            "How many environments of this host may be live (WAGGLE_MAX_ENVIRONMENTS).",
            _only(self._capacity),
        )
        yield from _of_environments(figures)
        yield from _of_what_was_done(self._tally)
        yield _histogram(
            "waggle_tool_call_duration_seconds",
            "Calls of tools, by outcome: ok, refused, cancelled or failed.",
            self._calls.found,
            ("tool", "outcome"),
        )
        yield _counter(
            "waggle_sessions_begun_total",
            "Sessions that clients have begun, of the revisions of the protocol that have them.",
            _only(self._sessions.begun),
        )
        yield _counter(
            "waggle_sessions_ended_total",
            "Sessions that clients have ended; most clients end none.",
            _only(self._sessions.ended),
        )
        yield from _of_disks(figures)
        yield from self._of_store(figures)

    def _of_store(self, figures: Figures) -> Iterator[Metric]:
        yield _histogram(
            "waggle_store_save_duration_seconds",
            "Changes that this server has stored, with their wait for other writers.",
            _histogram_of(self._repository, "saves"),
        )
        yield _histogram(
            "waggle_store_sync_duration_seconds",
            "Calls of this server that sync a file, a directory or a file system.",
            _histogram_of(self._repository, "syncs"),
        )
        yield from _of_info(figures.info)


def _of_server(figures: Figures) -> Iterator[Metric]:
    yield _gauge(
        "waggle_build_info",
        "1, with the versions of the program and of Python.",
        {(__version__, platform.python_version()): 1},
        ("version", "python"),
    )
    yield _gauge(
        "waggle_ready",
        "1 if environments can be created and removed now, as /readyz says.",
        _only(figures.is_ready),
    )
    yield _gauge(
        "waggle_leads",
        "1 if this server reconciles and removes expired environments.",
        _only(figures.leads),
    )
    yield _gauge(
        "waggle_leader_stalled",
        "1 if the server that leads does not respond, and this one does its work.",
        _only(figures.is_substitute),
    )
    yield _gauge(
        "waggle_execution_available",
        "1 if programs can be run in environments.",
        _only(figures.can_execute),
    )


def _of_environments(figures: Figures) -> Iterator[Metric]:
    yield _gauge(
        "waggle_environments",
        "Environments of this host.",
        {(status,): count for status, count in figures.own.items()},
        ("status",),
    )
    yield _gauge(
        "waggle_store_environments",
        "Environments of the whole store, by the host that has their files.",
        figures.stored,
        ("status", "host"),
    )
    meanings = {
        "unreadable": ("waggle_store_unreadable_documents", "Documents that cannot be read."),
        "findings": (
            "waggle_store_recovery_findings",
            "Problems that the last recovery of the store fixed or could not fix.",
        ),
        "orphans": (
            "waggle_orphans",
            "Workspaces without a record, and removed ones that could not be deleted.",
        ),
        "problems": ("waggle_reconciliation_problems", "Failures of the last reconciliation."),
    }
    for count, (name, meaning) in meanings.items():
        yield _gauge(name, meaning, _only(figures.counts[count]))


def _of_what_was_done(tally: Tally) -> Iterator[Metric]:
    yield _counter("waggle_creates_total", "Environments created.", _only(tally.created))
    yield _counter(
        "waggle_destroys_total",
        "Environments destroyed, also those whose creation was cancelled.",
        _only(tally.destroyed),
    )
    yield _counter("waggle_expiries_total", "Environments that expired.", _only(tally.expired))
    yield _counter(
        "waggle_failures_total",
        "What failed for reasons that are not the caller's.",
        {(kind,): count for kind, count in tally.failures.items()},
        ("type",),
    )
    yield _counter(
        "waggle_executions_total",
        "Programs that ended: ok, failed (the exit code is not 0), or why they were stopped.",
        tally.executions,
        ("language", "outcome"),
    )
    yield _counter(
        "waggle_installations_total",
        "Installations of packages that ended, by the same outcomes.",
        {(outcome,): count for outcome, count in tally.installations.items()},
        ("outcome",),
    )


def _of_disks(figures: Figures) -> Iterator[Metric]:
    yield _gauge(
        "waggle_trash_bytes",
        "Size of the removed workspaces that are kept, as far as this server has measured them.",
        _only(figures.trash_bytes),
    )
    yield _gauge(
        "waggle_disk_size_bytes",
        "Size of the file system that has the store or the workspaces.",
        {(place,): room.size for place, room in figures.room.items()},
        ("place",),
    )
    yield _gauge(
        "waggle_disk_free_bytes",
        "What the server may still use of that file system.",
        {(place,): room.free for place, room in figures.room.items()},
        ("place",),
    )


def _of_info(info: object) -> Iterator[Metric]:
    """Yield the metrics of a store, without a value where this one has no such figure."""
    meanings = {
        "waggle_store_documents_bytes": ("Size of the documents.", "document_bytes"),
        "waggle_store_journal_bytes": (
            "Size of the journal; in PostgreSQL, of the table of changes.",
            "history_bytes" if hasattr(info, "history_bytes") else "segment_bytes",
        ),
        "waggle_store_journal_segments": ("Files of the journal.", "segments"),
        "waggle_store_last_change": ("Number of the last change.", "last_seq"),
        "waggle_store_last_checkpoint": (
            "Number of the last change that the last checkpoint covers.",
            "checkpoint",
        ),
        "waggle_store_recovery_due": (
            "1 if documents may be older than the journal, and it cannot be recovered now.",
            "is_recovery_due",
        ),
    }
    for name, (meaning, attribute) in meanings.items():
        yield _gauge(name, meaning, _only(getattr(info, attribute, None)))


def _only(value: float | None) -> _Samples:
    """Return the sample of a metric without labels, none for ``None``."""
    return {} if value is None else {(): float(value)}


def _gauge(name: str, meaning: str, samples: _Samples, labels: tuple[str, ...] = ()) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _counter(name: str, meaning: str, samples: _Samples, labels: tuple[str, ...] = ()) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=labels)
    for values, value in samples.items():
        family.add_metric(values, value)
    return family


def _histogram_of(repository: object, name: str) -> dict[tuple[str, ...], Histogram]:
    """Return what a store has measured; not every store has."""
    found: Histogram | None = getattr(repository, name, None)
    return {} if found is None else {(): found}


def _histogram(
    name: str,
    meaning: str,
    found: Mapping[tuple[str, ...], Histogram],
    labels: tuple[str, ...] = (),
) -> Metric:
    family = HistogramMetricFamily(name, meaning, labels=labels)
    for values, histogram in list(found.items()):
        bounds = [*map(str, histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        family.add_metric(values, buckets, histogram.seconds)
    return family
