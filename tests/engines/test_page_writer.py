# SPDX-License-Identifier: Apache-2.0
"""Tests that a written page is read as the page was, with and without masked labels."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keda_gpu_scaler.core.selectors import SeriesSelector, parse_series
from keda_gpu_scaler.engines import page_writer
from keda_gpu_scaler.engines.exposition import SeriesSample
from keda_gpu_scaler.engines.page_writer import LabelMask, PageWriter
from keda_gpu_scaler.engines.prometheus_text import parse_exposition
from keda_gpu_scaler.engines.scrape_parser import UnknownPageError, parse_page
from tests.engines import engine_pages

TEXT = "text/plain; version=0.0.4"
PAGES = {
    name: value
    for name, value in vars(engine_pages).items()
    if isinstance(value, bytes) and not name.startswith("INTERCEPTOR")
}


def written(
    page: bytes, content_type: str = TEXT, *selectors: SeriesSelector, masks: bool = False, size: int = 0
) -> tuple[str, str]:
    writer = PageWriter(content_type, selectors, LabelMask(selectors) if masks else None)
    for start in range(0, len(page), size or max(1, len(page))):
        writer.feed(page[start : start + (size or len(page))])
    return writer.finish()


@pytest.mark.parametrize("masks", [False, True], ids=["as it is", "masked"])
@pytest.mark.parametrize("name", PAGES)
def test_a_written_page_is_read_as_the_page_was(name: str, masks: bool) -> None:
    page = PAGES[name]
    selectors = (parse_series('vllm:num_requests_running{engine="1"}'), parse_series("nothing_like_it"))
    content_type = "application/json" if page.startswith(b"{") else TEXT
    its_type, text = written(page, content_type, *selectors, masks=masks)
    again = parse_page(text.encode(), its_type, at_seconds=7.0, selectors=selectors)
    assert again == parse_page(page, content_type, at_seconds=7.0, selectors=selectors)


@pytest.mark.parametrize("name", ["VLLM", "OLLAMA"])
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_the_result_does_not_depend_on_the_pieces(name: str, size: int) -> None:
    page = PAGES[name]
    content_type = "" if name == "OLLAMA" else TEXT
    assert written(page, content_type, size=size) == written(page, content_type)


def test_a_page_has_its_requested_series_alone() -> None:
    page = b'# TYPE secret gauge\nsecret{user="bob"} 1\nvllm:num_requests_running{model_name="m"} 3\nmine{a="b"} 4\n'
    _, text = written(page, TEXT, parse_series("mine"))
    assert text == 'vllm:num_requests_running{model_name="m"} 3.0\nmine{a="b"} 4.0\n'


def test_a_page_in_openmetrics_is_written_as_text() -> None:
    page = b'# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{a="b"} 4 # {id="7"} 1\n# EOF\n'
    its_type, text = written(page, "application/openmetrics-text; version=1.0.0")
    assert its_type == page_writer.TEXT_TYPE
    assert text == '# TYPE vllm:generation_tokens counter\nvllm:generation_tokens_total{a="b"} 4.0\n'


def test_equal_values_have_equal_pseudonyms_on_every_page() -> None:
    mask = LabelMask()

    def masked(**labels: str) -> dict[str, str]:
        return dict(mask.labels(SeriesSample("vllm:num_requests_running", labels, 1.0)))

    assert masked(model_name="llama", engine="0") == {"model_name": "masked-1", "engine": "masked-1"}
    assert masked(model_name="qwen", engine="0") == {"model_name": "masked-2", "engine": "masked-1"}
    assert masked(model_name="llama", other="") == {"model_name": "masked-1", "other": ""}


@pytest.mark.parametrize(
    ("name", "labels", "kept"),
    [
        pytest.param(
            "vllm:time_to_first_token_seconds_bucket", {"le": "0.1", "model_name": "m"}, {"le"}, id="a bucket"
        ),
        pytest.param("vllm:request_success_total", {"finished_reason": "abort"}, {"finished_reason"}, id="a reason"),
        pytest.param("depth", {"queue": "llama", "tenant": "acme"}, {"queue"}, id="a label of the trigger's selector"),
        pytest.param("other", {"queue": "llama", "reason": "abort"}, set(), id="the same labels of another series"),
    ],
)
def test_labels_that_select_series_keep_their_values(name: str, labels: dict[str, str], kept: set[str]) -> None:
    mask = LabelMask([parse_series('depth{queue="llama"}')])
    masked = mask.labels(SeriesSample(name, labels, 1.0))
    assert {key for key in labels if masked[key] == labels[key]} == kept


def test_the_models_that_the_trigger_selects_keep_their_names() -> None:
    mask = LabelMask(models=["llama"])

    def masked(**labels: str) -> dict[str, str]:
        return dict(mask.labels(SeriesSample("vllm:num_requests_running", labels, 1.0)))

    assert masked(model_name="llama", tenant="llama") == {"model_name": "llama", "tenant": "masked-1"}
    assert masked(model_name="qwen") == {"model_name": "masked-1"}


def test_the_number_of_pseudonyms_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_writer, "MAX_MASKED_VALUES", 2)
    mask = LabelMask()
    values = [mask.labels(SeriesSample("a", {"b": str(number)}, 1.0))["b"] for number in range(4)]
    assert values == ["masked-1", "masked-2", "masked", "masked"]


def test_names_of_models_in_json_are_masked_and_nothing_else_is_written() -> None:
    page = b'{"models":[{"name":"secret:7b","digest":"d34d","size":5},{"name":"secret:7b"},{"name":"other"}]}'
    _, text = written(page, "application/json", masks=True)
    assert json.loads(text) == {"models": [{"name": "masked-1"}, {"name": "masked-1"}, {"name": "masked-2"}]}


def test_json_of_an_unknown_kind_is_not_written() -> None:
    with pytest.raises(UnknownPageError, match="JSON of an unknown kind"):
        written(b'{"password":"x"}', "application/json")


def test_law_1_a_series_that_cannot_be_read_is_written_neither_as_a_value_nor_as_a_family() -> None:
    page = b"# TYPE mine gauge\nmine 1\nmine 2\nvllm:num_requests_running 3\n"
    selectors = (parse_series("mine"),)
    _, text = written(page, TEXT, *selectors)
    again = parse_page(text.encode(), TEXT, at_seconds=7.0, selectors=selectors)
    assert (text, again.selected["mine"]) == ("vllm:num_requests_running 3.0\n", None)


@given(
    st.dictionaries(st.sampled_from("abc"), st.text(st.characters(exclude_categories=["Cs"]))),
    st.floats(allow_nan=False),
)
def test_each_label_and_number_is_written_exactly(labels: dict[str, str], value: float) -> None:
    escaped = {key: one.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for key, one in labels.items()}
    inside = ",".join(f'{key}="{one}"' for key, one in escaped.items())
    page = f"mine{{{inside}}} {'+Inf' if value == math.inf else repr(value)}\n".encode()
    _, text = written(page, TEXT, parse_series("mine"))
    again = parse_exposition(text.encode()).samples
    assert again == parse_exposition(page).samples
    assert [(dict(it.labels), it.value) for it in again] == [(labels, value)]
