# SPDX-License-Identifier: Apache-2.0
"""Save one environment over and over, and print each save once it is durable."""

import sys

from waggle_fsstore import Environment, Runtime, open_repository

with open_repository() as store:
    environment = Environment(id="writer", name="writer", runtime=Runtime.SHELL)
    step = 0
    while True:
        step += 1
        environment.extra["step"] = step
        environment.extra["padding"] = "x" * (step % 7 * 5_000)
        revision = store.save(environment)
        sys.stdout.write(f"{step} saved as revision {revision} durably\n")
        sys.stdout.flush()
