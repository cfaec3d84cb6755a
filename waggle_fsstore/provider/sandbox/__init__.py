# SPDX-License-Identifier: Apache-2.0
"""Isolated execution: one sandbox of bubblewrap for each program."""
