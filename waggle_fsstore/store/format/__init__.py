# SPDX-License-Identifier: Apache-2.0
"""The bytes on disk and the values they hold, the ids and their file names. No I/O."""
