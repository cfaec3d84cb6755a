# SPDX-License-Identifier: Apache-2.0
"""The operating system: the only place that writes, locks or syncs files."""
