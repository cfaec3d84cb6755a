# SPDX-License-Identifier: Apache-2.0
"""The code of the project: it keeps a note in each environment, from an event loop."""

import asyncio

from waggle_fsstore import Environment, TransactionalRepository


async def write_note(store: TransactionalRepository, environment_id: str, note: str) -> None:
    """Store a note with an environment, or remove it if it is empty."""

    def change(environment: Environment) -> None:
        if note:
            environment.labels["note"] = note
        else:
            environment.labels.pop("note", None)

    await asyncio.to_thread(store.update, environment_id, change)
