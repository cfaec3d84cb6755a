# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: the stores and their peers side by side, on one machine in one run."""
