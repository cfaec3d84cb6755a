# SPDX-License-Identifier: Apache-2.0
"""One change, from the lock to the rename.

In reading order:

1. ``inputs`` checks and copies what the caller gives.
2. ``writer`` takes the lock, commits, and rolls back.
3. ``group_commit`` has one thread commit the calls of all that wait.
4. ``session`` knows how far the store is, and brings it up to date (``initialize``, ``recovery``).
5. ``batch`` collects changes into one line of the journal.
6. ``publish`` writes temp files, and renames them into place.
7. ``checkpoint`` and ``sync`` make documents durable in themselves, after the change.
"""
