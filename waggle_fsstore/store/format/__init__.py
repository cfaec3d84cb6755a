# SPDX-License-Identifier: Apache-2.0
"""The format on disk: bytes to values and back, ids to file names and back. No I/O."""
