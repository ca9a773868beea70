# SPDX-License-Identifier: Apache-2.0
"""Tests that no error about a page contains a part of the page.

The author of a trigger names a URL, and must not read what the scaler's place in the network returns.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.selectors import parse_series
from keda_gpu_scaler.engines.scrape_parser import ScrapeParseError, parse_page

SECRET = "wJalrXUtnFEMIK7MDENG"  # noqa: S105 - it stands for one
NAMES = ("AWS_SECRET_ACCESS_KEY", "password", "password:", "vllm:num_requests_waiting", "data")


def messages(body: str, content_type: str = "text/plain", name: str = NAMES[0]) -> str:
    """Return everything that is said about a page."""
    try:
        sample = parse_page(
            body.encode(errors="surrogatepass"), content_type, at_seconds=0.0, selectors=[parse_series(name)]
        )
    except ScrapeParseError as error:
        return str(error)
    return " ".join(sample.unread.values())


@pytest.mark.parametrize("content_type", ["text/plain", "application/openmetrics-text", "application/json"])
@pytest.mark.parametrize(
    ("body", "name"),
    [
        pytest.param(f"PATH=/bin\nAWS_SECRET_ACCESS_KEY={SECRET}\n", NAMES[0], id="an environment"),
        pytest.param(f"AWS_SECRET_ACCESS_KEY {SECRET}\n", NAMES[0], id="a word for a number"),
        pytest.param(f"password: {SECRET}\n", "password:", id="YAML"),
        pytest.param(f"password {{{SECRET}}} 1\n", "password", id="no label"),
        pytest.param(f'password{{{SECRET}="1",{SECRET}="2"}} 1\n', "password", id="a label twice"),
        pytest.param(f'password{{a="1",b="{SECRET}\\x"}} 1\n', "password", id="an escape sequence"),
        pytest.param(f'password{{a="{SECRET}"}} 1\npassword{{a="{SECRET}"}} 2\n', "password", id="a series twice"),
        pytest.param(f"password 1 {SECRET}\n", "password", id="a time stamp"),
        pytest.param(f"# TYPE password {SECRET}\npassword 1\n", "password", id="a type"),
        pytest.param(f"# TYPE {SECRET} gauge gauge\n", "password", id="a type that cannot be read"),
        pytest.param(f"vllm:num_requests_waiting {SECRET}\n", "data", id="a series of an engine"),
        pytest.param(f'{{"data": "{SECRET}"}}', "data", id="JSON"),
        pytest.param(f'{{"data": "{SECRET}"', "data", id="JSON that is cut off"),
        pytest.param(f"password {SECRET}" + "x" * 70_000 + "\n", "password", id="a long line"),
        pytest.param(f"<html>{SECRET}</html>", "html", id="HTML"),
    ],
)
def test_an_error_contains_no_part_of_the_page(body: str, name: str, content_type: str) -> None:
    said = messages(body, content_type, name)
    assert not any(SECRET[start : start + 4] in said for start in range(len(SECRET) - 3)), said


@given(
    st.lists(st.sampled_from((*NAMES, SECRET, " ", "\n", "{", "}", '"', "=", "#", "# TYPE ", "\\", ",", "1", ": "))),
    st.sampled_from(("text/plain", "application/openmetrics-text", "application/json")),
    st.sampled_from([name for name in NAMES if not name.endswith(":")]),
)
def test_no_page_is_quoted(pieces: list[str], content_type: str, name: str) -> None:
    assert SECRET[:4] not in messages("".join(pieces), content_type, name)
