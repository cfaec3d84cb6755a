# SPDX-License-Identifier: Apache-2.0
"""The stores: where environments are kept."""
