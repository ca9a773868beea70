# SPDX-License-Identifier: Apache-2.0
"""The scrape manager: fetches the pages of engines and of demand endpoints at its own pace."""
