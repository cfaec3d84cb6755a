# SPDX-License-Identifier: Apache-2.0
"""The life of environments, from creation to removal."""
