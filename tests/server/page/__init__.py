# SPDX-License-Identifier: Apache-2.0
"""Tests of the page, in the order of its modules."""
