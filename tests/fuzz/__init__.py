# SPDX-License-Identifier: Apache-2.0
"""One fuzz target for each decoder, a corpus of small files, and the mutations of the ordinary tests."""
