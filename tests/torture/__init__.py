# SPDX-License-Identifier: Apache-2.0
"""Tests that take long, or the whole machine."""
