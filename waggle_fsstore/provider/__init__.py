# SPDX-License-Identifier: Apache-2.0
"""Providers: what makes environments real."""
