# SPDX-License-Identifier: Apache-2.0
"""The readers' view: documents, listings, history. Readers take no lock."""
