# SPDX-License-Identifier: Apache-2.0
"""One change, from the lock to the rename.

In reading order:

1. ``inputs`` validates and copies the caller's arguments.
2. ``writer`` is the entry point: it commits a batch, or rolls it back.
3. ``group_commit`` queues the calls and takes the lock; one thread commits for all that wait.
4. ``session`` caches the state of the store, and brings the store up to date with
   ``initialize`` and ``recovery``.
5. ``batch`` collects changes into one line of the journal.
6. ``publish`` writes temp files, and renames them into place.
7. ``checkpoint`` and ``sync`` sync the documents after the change, so that recovery no longer
   needs their journal lines.
"""
