# SPDX-License-Identifier: Apache-2.0
"""Crash states: what a power cut may leave after each operation, replayed."""
