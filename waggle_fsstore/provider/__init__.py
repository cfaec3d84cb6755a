# SPDX-License-Identifier: Apache-2.0
"""Providers, which make environments real."""
