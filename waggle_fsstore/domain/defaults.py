# SPDX-License-Identifier: Apache-2.0
"""What holds for environments where nobody says otherwise: the numbers of Waggle."""

from datetime import timedelta
from typing import Final

#: How many live environments there may be.
DEFAULT_CAPACITY: Final = 10

#: The idle time after which one expires that is created without one, and the longest of all.
DEFAULT_IDLE_TIMEOUT: Final = timedelta(minutes=30)
MAX_IDLE_TIMEOUT: Final = timedelta(minutes=60)

#: How often the expired ones are looked for.
DEFAULT_REAPER_INTERVAL: Final = timedelta(minutes=1)

#: The ports that environments get.
DEFAULT_PORTS: Final = range(10_000, 11_001)
