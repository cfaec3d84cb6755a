# SPDX-License-Identifier: Apache-2.0
"""The write-ahead log: its lines, its segments, and how far they have been applied."""
