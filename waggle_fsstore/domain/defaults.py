# SPDX-License-Identifier: Apache-2.0
"""Default values for environments; the numbers are Waggle's."""

from datetime import timedelta
from typing import Final

from waggle_fsstore.domain.size import Size

#: The maximum number of live environments.
DEFAULT_CAPACITY: Final = 10

#: The idle timeout of an environment that is created without one, and the longest that a
#: server allows.
DEFAULT_IDLE_TIMEOUT: Final = timedelta(minutes=30)
MAX_IDLE_TIMEOUT: Final = timedelta(minutes=60)

#: The time between two searches for expired environments.
DEFAULT_REAPER_INTERVAL: Final = timedelta(minutes=1)

#: The ports that environments get.
DEFAULT_PORTS: Final = range(10_000, 11_001)

#: How long the files of an expired environment are kept, and how much room they may take.
DEFAULT_TRASH_KEEP: Final = timedelta(hours=24)
DEFAULT_TRASH_MAX: Final = Size(10, is_percent=True)

#: How long a program may run in an environment, by default and at most.
DEFAULT_EXEC_TIMEOUT: Final = timedelta(seconds=30)
MAX_EXEC_TIMEOUT: Final = timedelta(minutes=5)

#: How long a call to a store in a database may take.
DEFAULT_DATABASE_TIMEOUT: Final = timedelta(seconds=15)
