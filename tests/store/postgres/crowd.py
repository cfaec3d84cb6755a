# SPDX-License-Identifier: Apache-2.0
"""A process of many that use one database: writers, and watchers of all changes.

``python -m tests.store.postgres.crowd save URL NUMBER EVENTS`` saves with several threads,
``... watch URL 0 EVENTS`` watches, and prints what it has seen.
"""

import sys
import threading
from hashlib import sha256

from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment

THREADS = 6
_DOCUMENTS = 50
_PATIENCE_S = 60


def save(store: PostgresStore, number: int, events: int) -> None:
    """Make this many changes of environments that no other process changes."""

    def work(thread: int) -> None:
        for step in range(events // THREADS):
            name = f"{number}-{thread}-{step % _DOCUMENTS}"
            store.save(make_environment(id=name, name=f"step {step}"))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def watch(store: PostgresStore, events: int) -> str:
    """Return how many changes were seen, whether each continued the last, and their digest."""
    digest = sha256()
    seen = last = 0
    for event in store.watch(after=0, timeout=_PATIENCE_S):
        if event.seq != last + 1:
            return f"change {event.seq} follows {last}"
        last = event.seq
        seen += 1
        digest.update(f"{event.seq} {event.environment_id} {event.kind}\n".encode())
        if seen == events:
            break
    return f"{seen} {digest.hexdigest()}"


def main(role: str, url: str, number: str, events: str) -> None:
    """Do what one process does."""
    with PostgresStore(url, durable=False, timeout=_PATIENCE_S) as store:
        if role == "save":
            save(store, int(number), int(events))
        else:
            sys.stdout.write(watch(store, int(events)))


if __name__ == "__main__":
    main(*sys.argv[1:])
