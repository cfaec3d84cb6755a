# SPDX-License-Identifier: Apache-2.0
"""Tests of waggle_fsstore.store.postgres, against real servers."""
