# SPDX-License-Identifier: Apache-2.0
"""What readers see: documents, listings, history. Readers take no lock."""
