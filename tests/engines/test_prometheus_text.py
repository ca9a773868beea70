# SPDX-License-Identifier: Apache-2.0
"""Tests that the parser reads what the two specifications define and refuses what they forbid.

The cases are written from Prometheus' "Exposition formats" (text format 0.0.4) and from OpenMetrics 1.0.0.
"""

import contextlib
import math
import string
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families_of_openmetrics
from prometheus_client.parser import text_string_to_metric_families as families_of_text

from keda_gpu_scaler.engines.exposition import Exposition, SeriesSample, is_known
from keda_gpu_scaler.engines.prometheus_text import MAX_LINE_BYTES, parse_exposition
from keda_gpu_scaler.engines.series_text import ExpositionError

Sample = tuple[str, dict[str, str], str]


def comparable(samples: Iterable[SeriesSample]) -> list[Sample]:
    """Return the samples in a form in which NaN equals NaN."""
    return [(it.name, dict(it.labels), repr(it.value)) for it in samples]


def read(text: str, *, is_openmetrics: bool = False) -> list[Sample]:
    return comparable(parse_exposition(text.encode(), is_openmetrics=is_openmetrics).samples)


@pytest.mark.parametrize(
    ("text", "name", "labels"),
    [
        pytest.param("a 1\n", "a", {}, id="a name and a number"),
        pytest.param("a 1", "a", {}, id="a last line without a line feed"),
        pytest.param("a 1\r\n", "a", {}, id="lines that end with a carriage return"),
        pytest.param('a{x="y"} 1\r\n', "a", {"x": "y"}, id="a label and a carriage return"),
        pytest.param("\n\na 1\n\n \n\t\n", "a", {}, id="empty lines and lines of blanks"),
        pytest.param(" \ta\t 1 \t\n", "a", {}, id="blanks and tabs around everything"),
        pytest.param('a {x="y"}1\n', "a", {"x": "y"}, id="a blank before the labels and no blank after them"),
        pytest.param('a{ x = "y" , z="" , } 1\n', "a", {"x": "y", "z": ""}, id="blanks between labels, a last comma"),
        pytest.param("a{} 1\n", "a", {}, id="no label in braces"),
        pytest.param("a{ } 1\n", "a", {}, id="a blank in braces"),
        pytest.param("a 1 1395066363000\n", "a", {}, id="a time stamp"),
        pytest.param('a{x="y"} 1 -3982045\n', "a", {"x": "y"}, id="a time stamp before 1970"),
        pytest.param(":a_9:b 1\n", ":a_9:b", {}, id="colons, underscores and digits in a name"),
        pytest.param('a{_x9="y"} 1\n', "a", {"_x9": "y"}, id="an underscore and a digit in a label's name"),
        pytest.param(r'a{x="C:\\d\"e\nf"} 1', "a", {"x": 'C:\\d"e\nf'}, id="a backslash, a quote and a line feed"),
        pytest.param(r'a{x="\\"} 1', "a", {"x": "\\"}, id="an escaped backslash before the closing quote"),
        pytest.param(r'a{x="\\n"} 1', "a", {"x": "\\n"}, id="an escaped backslash before an n"),
        pytest.param('a{x="}"} 1\n', "a", {"x": "}"}, id="a brace in a label"),
        pytest.param('a{x="{y=\\"1\\"} 2"} 1\n', "a", {"x": '{y="1"} 2'}, id="labels in a label"),
        pytest.param('a{x="1,y=2",z="#"} 1\n', "a", {"x": "1,y=2", "z": "#"}, id="a comma and a hash in a label"),
        pytest.param('a{x="# TYPE a counter"} 1\n', "a", {"x": "# TYPE a counter"}, id="a type in a label"),
        pytest.param('a{x="日本 ß\u2028"} 1\n', "a", {"x": "日本 ß\u2028"}, id="UTF-8 and a Unicode line separator"),
        pytest.param('a{x="\t\r"} 1\n', "a", {"x": "\t\r"}, id="a tab and a carriage return in a label"),
        pytest.param('a{le="+Inf"} 1\n', "a", {"le": "+Inf"}, id="a number in a label"),
    ],
)
def test_a_sample_of_the_text_format(text: str, name: str, labels: dict[str, str]) -> None:
    assert read(text) == [(name, labels, "1.0")]


@pytest.mark.parametrize(
    ("number", "value"),
    [
        pytest.param("0", 0.0, id="zero"),
        pytest.param("-0.0", -0.0, id="negative zero"),
        pytest.param("+3", 3.0, id="a sign"),
        pytest.param("1e3", 1000.0, id="an exponent"),
        pytest.param("1.458255915e+09", 1458255915.0, id="a fraction, and an exponent with a sign"),
        pytest.param(".5", 0.5, id="no digit before the point"),
        pytest.param("5.", 5.0, id="no digit after the point"),
        pytest.param("007", 7.0, id="zeros in front"),
        pytest.param("9007199254740993", 9007199254740992.0, id="more digits than a float has"),
        pytest.param("1e999", math.inf, id="more than a float holds"),
        pytest.param("NaN", math.nan, id="no number"),
        pytest.param("nan", math.nan, id="NaN in lower case"),
        pytest.param("+Inf", math.inf, id="infinity with its sign"),
        pytest.param("-Inf", -math.inf, id="negative infinity"),
        pytest.param("Inf", math.inf, id="infinity without a sign"),
        pytest.param("infinity", math.inf, id="infinity as a word"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\n# EOF\n"], ids=["text", "OpenMetrics"])
def test_a_number_of_both_formats(number: str, value: float, end: str) -> None:
    assert read(f"a {number}{end}", is_openmetrics="EOF" in end) == [("a", {}, repr(value))]


@pytest.mark.parametrize(
    "number",
    [
        "0x1",
        "0x1p3",
        "1_000",
        "1,5",
        "1e",
        "e3",
        "+",
        "-",
        "--1",
        ".",
        "1f",
        "None",
        "true",
        "\u0661",
        "1\x00",
        "in",
        "nano",
    ],
)
def test_text_that_is_not_a_number_is_refused(number: str) -> None:
    for end in ("\n", "\n# EOF\n"):
        with pytest.raises(ExpositionError, match=r"^line 1: its value is not a number \([0-9]+ bytes\)$"):
            read(f"a {number}{end}", is_openmetrics="EOF" in end)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("a\n", "line 1: it is not a sample (1 bytes)", id="a name alone"),
        pytest.param("a{}\n", "line 1: it is not a sample (3 bytes)", id="no number after the labels"),
        pytest.param("b 1\n\n1a 1\n", "line 3: it is not a sample (4 bytes)", id="a name that begins with a digit"),
        pytest.param("a-b 1\n", "line 1: its value is not a number (2 bytes)", id="a hyphen in a name"),
        pytest.param("ä 1\n", "line 1: it is not a sample (4 bytes)", id="a name that is not ASCII"),
        pytest.param('{"a"} 1\n', "line 1: it is not a sample (7 bytes)", id="a quoted name, of a later format"),
        pytest.param("a 1 2 3\n", "line 1: it is not a sample (7 bytes)", id="one word too many"),
        pytest.param(
            "a 1 2.5\n", "line 1: it is not a sample (7 bytes)", id="a time stamp with a fraction of a millisecond"
        ),
        pytest.param("a 1 # x\n", "line 1: it is not a sample (7 bytes)", id="a comment after a sample"),
        pytest.param('a{x="1" 1\n', "line 1: it is not a sample (9 bytes)", id="braces that do not close"),
        pytest.param('a{x="1} 1\n', "line 1: it is not a sample (9 bytes)", id="a quote that does not close"),
        pytest.param('a{x="1\\"} 1\n', "line 1: it is not a sample (11 bytes)", id="a closing quote, escaped"),
        pytest.param("a{x=1} 1\n", "line 1: its label 1 is not a label (3 bytes)", id="a label without quotes"),
        pytest.param("a{x='1'} 1\n", "line 1: its label 1 is not a label (5 bytes)", id="a label in single quotes"),
        pytest.param(
            'a{1="1"} 1\n', "line 1: its label 1 is not a label (5 bytes)", id="a label's name that begins with a digit"
        ),
        pytest.param('a{x:y="1"} 1\n', "line 1: its label 1 is not a label (7 bytes)", id="a colon in a label's name"),
        pytest.param(
            'a{x="1"y="2"} 1\n', "line 1: its label 1 is not a label (10 bytes)", id="no comma between labels"
        ),
        pytest.param('a{x="1",,} 1\n', "line 1: its label 2 is not a label (1 bytes)", id="two commas"),
        pytest.param("a{,} 1\n", "line 1: its label 1 is not a label (1 bytes)", id="a comma alone"),
        pytest.param('a{x="1",x="2"} 1\n', "line 1: its label 2 has the name of one before", id="a label twice"),
        pytest.param(
            'a{x="\\t"} 1\n', "line 1: a label has an unknown escape sequence", id="an unknown escape sequence"
        ),
        pytest.param("a 1\na 2\n", 'line 2: a series of "a" occurs twice, with two values', id="a series twice"),
        pytest.param(
            "a 1\na{} 2\n", 'line 2: a series of "a" occurs twice, with two values', id="a series twice, once in braces"
        ),
        pytest.param(
            'a{x="1",y="2"} 1\na{y="2",x="1"} 2\n',
            'line 2: a series of "a" occurs twice, with two values',
            id="a series twice, with its labels in another order",
        ),
        pytest.param("# TYPE a\n", "line 1: it declares no type (8 bytes)", id="a type without a kind"),
        pytest.param("# TYPE a gauge b\n", "line 1: it declares no type (16 bytes)", id="a type with two kinds"),
        pytest.param("# TYPE 1a gauge\n", "line 1: it declares no type (15 bytes)", id="a type of an invalid name"),
        pytest.param("# TYPE a meter\n", "line 1: it declares no known type (14 bytes)", id="an unknown type"),
        pytest.param(
            "# TYPE a gauge\na 1\n# TYPE a gauge\n",
            "line 3: it declares the type of a name again (14 bytes)",
            id="a type twice",
        ),
    ],
)
def test_text_outside_the_text_format_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ExpositionError) as error:
        read(text)
    assert str(error.value) == complaint


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a 1\na 1\n", id="a series twice with one value"),
        pytest.param("a 1\na{} 1.0\nb 2\n", id="written in two ways"),
        pytest.param('a 1 # {trace_id="x"} 0.5\n', id="an exemplar"),
        pytest.param('a 1 1395066363000 # {trace_id="} 2"} 0.5 1395066363.5\n', id="an exemplar with time stamps"),
        pytest.param("a 1 # {} 2\n", id="an exemplar without labels"),
    ],
)
def test_what_exporters_add_to_the_text_format_is_read(text: str) -> None:
    assert [it for it in read(text) if it[0] == "a"] == [("a", {}, "1.0")]


def test_a_series_twice_with_nan_is_one() -> None:
    assert read("a NaN\na nan\n") == [("a", {}, "nan")]


def test_a_label_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ExpositionError, match=r"^line 1: its label 1 is not UTF-8$"):
        parse_exposition(b'a{x="\xff"} 1\n')


def test_a_long_line_is_shortened_in_the_error() -> None:
    with pytest.raises(ExpositionError) as error:
        read("a" + " x" * 10_000)
    assert len(str(error.value)) < 120


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("# a comment\n", id="a comment"),
        pytest.param("#\n", id="a hash alone"),
        pytest.param("#TYPE a what\n", id="a type without its blank is a comment"),
        pytest.param("# TYPES a what\n", id="a word that begins with TYPE"),
        pytest.param("# HELP b a 1\n", id="help that looks like a sample"),
        pytest.param("# HELP b Backslashes \\\\ and line feeds\\na 1\n", id="help with escapes"),
        pytest.param("# HELP b\n", id="help without text"),
        pytest.param("# a 1\n", id="a sample that is commented out"),
        pytest.param("  # a 1\n", id="a comment that is indented"),
        pytest.param("", id="an empty page"),
    ],
)
def test_a_page_without_samples(text: str) -> None:
    assert parse_exposition(text.encode()) == Exposition({}, {})


@pytest.mark.parametrize(
    ("text", "name", "labels"),
    [
        pytest.param("a 1\n# EOF\n", "a", {}, id="a sample"),
        pytest.param("a 1\n# EOF", "a", {}, id="a last line without a line feed"),
        pytest.param('a{x="}",y="\\\\\\"\\n"} 1\n# EOF\n', "a", {"x": "}", "y": '\\"\n'}, id="a brace and escapes"),
        pytest.param("a 1 1.5\n# EOF\n", "a", {}, id="a time stamp in seconds"),
        pytest.param("a 1 -1e3\n# EOF\n", "a", {}, id="a time stamp with an exponent"),
        pytest.param('a_total 1 # {trace_id="x"} 0.5\n# EOF\n', "a_total", {}, id="an exemplar"),
        pytest.param('a_total 1 # {trace_id="x"} 0.5 1.5\n# EOF\n', "a_total", {}, id="an exemplar with a time stamp"),
        pytest.param('a_total 1 1.5 # {x="} 2"} 0.5\n# EOF\n', "a_total", {}, id="a brace in an exemplar, and a time"),
        pytest.param("a_total 1 # {} 0.5\n# EOF\n", "a_total", {}, id="an exemplar without labels"),
        pytest.param('a{x="# {} 1"} 1\n# EOF\n', "a", {"x": "# {} 1"}, id="an exemplar in a label"),
        pytest.param('a_bucket{le="+Inf"} 1 # {} 9\n# EOF\n', "a_bucket", {"le": "+Inf"}, id="a bucket's exemplar"),
        pytest.param("a_created 1\n# EOF\n", "a_created", {}, id="the creation time of a counter"),
        pytest.param(
            "# HELP a_seconds Some.\n# TYPE a_seconds gauge\n# UNIT a_seconds seconds\na_seconds 1\n# EOF\n",
            "a_seconds",
            {},
            id="a family's help, type and unit",
        ),
        # The specification refuses these; Prometheus reads them, and they are harmless.
        pytest.param('a{x="1",} 1\n# EOF\n', "a", {"x": "1"}, id="a last comma"),
        pytest.param("a 1\n# a comment\n# EOF\n\n", "a", {}, id="a comment, and an empty line after the end"),
        pytest.param("# TYPE a counter\na 1\n# EOF\n", "a", {}, id="a counter without its suffix"),
        pytest.param("a 1\n# TYPE a gauge\n# EOF\n", "a", {}, id="a type after its samples"),
    ],
)
def test_a_sample_of_openmetrics(text: str, name: str, labels: dict[str, str]) -> None:
    assert read(text, is_openmetrics=True) == [(name, labels, "1.0")]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("", 'the end mark "# EOF" is missing: the page was cut off', id="nothing"),
        pytest.param("a 1\n", 'the end mark "# EOF" is missing: the page was cut off', id="no end"),
        pytest.param(
            "a 1\n# EO", 'the end mark "# EOF" is missing: the page was cut off', id="an end mark that was cut off"
        ),
        pytest.param(
            "# EOF\na 1\n", 'the end mark "# EOF" is missing: the page was cut off', id="a sample after the end mark"
        ),
        pytest.param(
            "a 1\n# EOF \n", 'the end mark "# EOF" is missing: the page was cut off', id="an end mark with a blank"
        ),
        pytest.param("# EOF\na 1\n# EOF\n", "line 1: there are lines after the end mark", id="two end marks"),
        pytest.param("a 1\n\n# EOF\n", "line 2: it is empty", id="an empty line"),
        pytest.param(" a 1\n# EOF\n", "line 1: it is not a sample (4 bytes)", id="a line that is indented"),
        pytest.param("a  1\n# EOF\n", "line 1: it is not a sample (4 bytes)", id="two blanks"),
        pytest.param("a\t1\n# EOF\n", "line 1: it is not a sample (3 bytes)", id="a tab"),
        pytest.param("a 1 \n# EOF\n", "line 1: it is not a sample (4 bytes)", id="a blank at the end"),
        pytest.param('a{x="1"}1\n# EOF\n', "line 1: it is not a sample (9 bytes)", id="no blank after the labels"),
        pytest.param(
            "a 1\r\n# EOF\n",
            "line 1: its value is not a number (2 bytes)",
            id="a line that ends with a carriage return",
        ),
        pytest.param("a 1 # x\n# EOF\n", "line 1: it is not a sample (7 bytes)", id="an exemplar without braces"),
        pytest.param("a 1 # {}\n# EOF\n", "line 1: it is not a sample (8 bytes)", id="an exemplar without a number"),
        pytest.param(
            "a 1 # {} 1 2 3\n# EOF\n", "line 1: it is not a sample (14 bytes)", id="an exemplar with too many words"
        ),
        pytest.param("a 1\na 2\n# EOF\n", 'line 2: a series of "a" occurs twice, with two values', id="a series twice"),
    ],
)
def test_text_outside_openmetrics_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ExpositionError) as error:
        read(text, is_openmetrics=True)
    assert str(error.value) == complaint


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("wanted_by_reason 2", id="a name that begins with the wanted one"),
        pytest.param('wanted_by_reason{reason="capacity"} 2', id="such a name, and labels"),
        pytest.param("un_wanted 2", id="a name that ends with the wanted one"),
        pytest.param("wante 2", id="a name that is shorter"),
        pytest.param("WANTED 2", id="a name in capitals"),
        pytest.param("wanted:rate 2", id="a colon after the name"),
        pytest.param("# HELP other wanted 2", id="the name in a help text"),
        pytest.param("# wanted 2", id="the name in a comment"),
        pytest.param('other{x="wanted 2"} 1', id="the name in a label"),
        pytest.param('other{x="\\nwanted 2"} 1', id="the name in a label, after a line feed"),
        pytest.param('other{wanted="2"} 1', id="the name as a label's name"),
        pytest.param("wanted_total 2", id="the name and a suffix"),
        pytest.param("other what is this", id="a malformed line of another name"),
        pytest.param('wanted_total{x="1",x="2"} 2', id="a label twice after the name and a suffix"),
        pytest.param("wanted_total what is this", id="a malformed line that begins with the wanted name"),
        pytest.param("other 1\nother 1", id="a series of another name twice"),
        pytest.param("# TYPE other what", id="a malformed type of another name"),
        pytest.param("   other  1", id="a line that is indented"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["before it", "after it"])
def test_only_the_wanted_name_is_read(line: str, is_first: bool) -> None:
    lines = (line, 'wanted{x="y"} 1') if is_first else ('wanted{x="y"} 1', line)
    page = parse_exposition("\n".join(lines).encode(), wanted=frozenset({"wanted"}))
    assert comparable(page.samples) == [("wanted", {"x": "y"}, "1.0")]


@pytest.mark.parametrize("text", [" wanted 1\n", "\twanted 1\n", "a 1\n wanted 1\n", "a 1\n\twanted 1\n"])
def test_a_wanted_line_that_is_indented_is_found(text: str) -> None:
    assert comparable(parse_exposition(text.encode(), wanted=frozenset({"wanted"})).samples) == [("wanted", {}, "1.0")]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("wanted`2", id="a character after the name that no name has"),
        pytest.param("#  TYPE wanted counter", id="a type with two blanks"),
        pytest.param("# TYPE wanted counter", id="a type"),
        pytest.param("wanted 2", id="a wanted line"),
    ],
)
@pytest.mark.parametrize("indented", [" other 1", "\tother", "  # a comment"])
def test_a_line_that_is_indented_changes_the_reading_of_no_other_line(line: str, indented: str) -> None:
    alone, beside = (
        parse_exposition(text.encode(), wanted=frozenset({"wanted"})) for text in (f"{line}\n", f"{line}\n{indented}\n")
    )
    assert (beside.samples, beside.kinds) == (alone.samples, alone.kinds)


@pytest.mark.parametrize("text", ["wanted.5\nother 1\n", "wanted+.5\n", "wanted-.5\nwant_others 1\n"])
def test_a_wanted_value_without_a_blank_before_it_is_read_as_on_the_whole_page(text: str) -> None:
    page = parse_exposition(text.encode())
    for wanted in ({"wanted"}, {"wanted", "want_others"}):
        some = parse_exposition(text.encode(), wanted=frozenset(wanted))
        assert some.samples == tuple(sample for sample in page.samples if sample.name in wanted)
        assert some.samples[0].name == "wanted"


def test_a_wanted_name_of_one_letter_does_not_make_the_end_mark_a_comment() -> None:
    page = parse_exposition(b"a 1\n# EOF\n", wanted=frozenset({"a"}), is_openmetrics=True)
    assert comparable(page.samples) == [("a", {}, "1.0")]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        pytest.param("wanted", "line 3: it is not a sample (6 bytes)", id="no number"),
        pytest.param("wanted one", "line 3: its value is not a number (3 bytes)", id="a word for a number"),
        pytest.param('wanted{x="y} 1', "line 3: it is not a sample (14 bytes)", id="an open quote"),
        pytest.param("wanted 1\nwanted 2", 'line 4: a series of "wanted" occurs twice, with two values', id="twice"),
        pytest.param(
            "wanted 1 " + " " * MAX_LINE_BYTES, 'line 3: the line of "wanted" is longer than 65536 bytes', id="too long"
        ),
    ],
)
def test_a_malformed_wanted_line_is_refused(line: str, complaint: str) -> None:
    with pytest.raises(ExpositionError) as error:
        parse_exposition(f"other 1\n\n{line}\n".encode(), wanted=frozenset({"wanted", "more"}))
    assert str(error.value) == complaint


def test_without_wanted_names_nothing_is_read() -> None:
    assert parse_exposition(b"a 1\nb what\n", wanted=frozenset()).samples == ()


@pytest.mark.parametrize(
    ("text", "name", "is_counter"),
    [
        pytest.param("# TYPE a counter\n", "a", True, id="declared a counter"),
        pytest.param("# TYPE a_total counter\n", "a_total", True, id="declared a counter by its full name"),
        pytest.param("# TYPE a counter\n", "a_total", True, id="declared without the suffix, as in OpenMetrics"),
        pytest.param("# TYPE a counter\n", "a_created", False, id="when a counter was created"),
        pytest.param("# TYPE a_total gauge\n", "a_total", False, id="declared a gauge, with a counter's suffix"),
        pytest.param("# TYPE a histogram\n", "a_bucket", True, id="a histogram's bucket"),
        pytest.param("# TYPE a histogram\n", "a_sum", True, id="a histogram's sum"),
        pytest.param("# TYPE a histogram\n", "a_count", True, id="a histogram's count"),
        pytest.param("# TYPE a summary\n", "a_count", True, id="a summary's count"),
        pytest.param("# TYPE a summary\n", "a", False, id="a summary's quantile"),
        pytest.param("# TYPE a gaugehistogram\n", "a_bucket", False, id="the bucket of a gauge histogram"),
        pytest.param("# TYPE a_count gauge\n", "a_count", False, id="a gauge with the suffix of a histogram's count"),
        pytest.param("", "a_total", True, id="not declared, with the suffix of a counter"),
        pytest.param("", "a_count", False, id="not declared, with the suffix _count"),
        pytest.param("", "a", False, id="not declared"),
    ],
)
def test_which_series_are_counters(text: str, name: str, is_counter: bool) -> None:
    body = f"{text}{name} 1\n".encode()
    assert parse_exposition(body).is_counter(name) is is_counter
    assert parse_exposition(body, wanted=frozenset({name})).is_counter(name) is is_counter


@pytest.mark.parametrize(
    ("text", "is_declared"),
    [
        pytest.param("# TYPE a_total counter\n", True, id="by its full name"),
        pytest.param("# TYPE a counter\n", True, id="without its suffix"),
        pytest.param("# TYPE a gauge\n", False, id="as a gauge"),
        pytest.param("# HELP a_total Some.\n", False, id="by its help only"),
        pytest.param("", False, id="not declared"),
    ],
)
def test_which_counters_are_declared(text: str, is_declared: bool) -> None:
    assert parse_exposition(text.encode(), wanted=frozenset({"a_total"})).declares_counter("a_total") is is_declared


@pytest.mark.parametrize(("value", "expected"), [(0.0, True), (-1.0, True), (math.nan, False), (math.inf, False)])
def test_only_a_finite_value_is_known(value: float, expected: bool) -> None:
    assert is_known(value) is expected


MEBIBYTE = 1 << 20


@pytest.mark.parametrize(
    "piece",
    [
        pytest.param(b"a", id="one name"),
        pytest.param(b" ", id="blanks"),
        pytest.param(b"\n", id="line feeds"),
        pytest.param(b"a 1\n", id="one series again and again"),
        pytest.param(b"a{", id="opening braces"),
        pytest.param(b'a{x="', id="opening quotes"),
        pytest.param(b'{x="}', id="braces in quotes"),
        pytest.param(b'a{x="y",', id="labels"),
        pytest.param(b"\\", id="backslashes"),
        pytest.param(b'\\"', id="escaped quotes"),
        pytest.param(b'a{x="\\', id="quotes, braces and backslashes"),
        pytest.param(b"# TYPE a ", id="types"),
        pytest.param(b"# {} 1 ", id="exemplars"),
        pytest.param(b"9", id="digits"),
        pytest.param(b"1e1", id="exponents"),
    ],
)
@pytest.mark.parametrize("head", [b"", b"a ", b'a{x="'], ids=["nothing", "a name", "a label"])
def test_a_mebibyte_of_hostile_text_is_read_in_a_short_time(head: bytes, piece: bytes) -> None:
    body = (head + piece * (MEBIBYTE // len(piece)))[:MEBIBYTE]
    for is_openmetrics in (False, True):
        for page in (body, body + b"\n# EOF\n"):
            with contextlib.suppress(ExpositionError):
                parse_exposition(page, wanted=frozenset({"a"}), is_openmetrics=is_openmetrics)


# Generated pages as an exporter may write them, with the samples in them.

NAMES = st.text(string.ascii_lowercase + "_:", min_size=1, max_size=3)
LABEL_NAMES = st.text(string.ascii_lowercase + "_", min_size=1, max_size=2).filter(lambda it: not it.startswith("__"))
LABEL_VALUES = st.text(st.sampled_from('aß日{}",=#\\ \n1'), max_size=6)
VALUES = st.floats(allow_nan=True, allow_infinity=True)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family of a generated page."""

    name: str
    kind: str
    series: tuple[tuple[dict[str, str], float], ...]

    @property
    def sample_name(self) -> str:
        return f"{self.name}_total" if self.kind == "counter" else self.name


def families(values: st.SearchStrategy[float]) -> st.SearchStrategy[list[Family]]:
    labels = st.dictionaries(LABEL_NAMES, LABEL_VALUES, max_size=3)
    series = st.lists(st.tuples(labels, values), max_size=3, unique_by=lambda it: frozenset(it[0].items()))
    made = st.builds(Family, NAMES, st.sampled_from(["gauge", "counter"]), series.map(tuple))
    # No exporter writes names that clash (a_total of "a" and a gauge of that name).
    return st.lists(made, max_size=5, unique_by=lambda it: it.name.removesuffix("_total"))


def escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def written(it: Family, labels: dict[str, str], value: float, *, blank: str, comma: str) -> str:
    inside = ",".join(f'{key}="{escaped(text)}"' for key, text in labels.items())
    braces = f"{{{inside}{comma if inside else ''}}}" if inside or comma else ""
    number = {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN" if math.isnan(value) else repr(value))
    return f"{it.sample_name}{braces}{blank}{number}"


def expected(given_families: list[Family]) -> list[Sample]:
    return [(it.sample_name, labels, repr(value)) for it in given_families for labels, value in it.series]


TEXT_PAGES = families(VALUES)
STYLES = st.tuples(
    st.sampled_from([" ", "  ", "\t", " \t "]), st.sampled_from(["", ","]), st.sampled_from(["", " 123"])
)


def text_page(given_families: list[Family], style: tuple[str, str, str]) -> str:
    blank, comma, at = style
    lines = []
    for it in given_families:
        lines += [f"# HELP {it.sample_name} Help.", f"# TYPE {it.sample_name} {it.kind}"]
        lines += [written(it, labels, value, blank=blank, comma=comma) + at for labels, value in it.series]
    return "".join(f"{line}\n" for line in lines)


@given(TEXT_PAGES, STYLES)
def test_the_text_format_is_read_as_prometheus_client_reads_it(made: list[Family], style: tuple[str, str, str]) -> None:
    text = text_page(made, style)
    theirs = [(it.name, it.labels, repr(it.value)) for family in families_of_text(text) for it in family.samples]
    assert read(text) == theirs == expected(made)


@given(families(st.floats(min_value=0, allow_infinity=False)), st.booleans())
def test_openmetrics_is_read_as_prometheus_client_reads_it(made: list[Family], has_exemplars: bool) -> None:
    lines = []
    for it in made:
        lines += [f"# HELP {it.name} Help.", f"# TYPE {it.name} {it.kind}"]
        exemplar = ' # {trace_id="}# {"} 0.5' if has_exemplars and it.kind == "counter" else ""
        lines += [written(it, labels, value, blank=" ", comma="") + exemplar for labels, value in it.series]
    text = "".join(f"{line}\n" for line in (*lines, "# EOF"))
    their_families = families_of_openmetrics(text)  # type: ignore[no-untyped-call]
    theirs = [(it.name, it.labels, repr(it.value)) for family in their_families for it in family.samples]
    assert read(text, is_openmetrics=True) == theirs == expected(made)


@given(TEXT_PAGES, STYLES, st.sets(st.one_of(NAMES, NAMES.map(lambda it: f"{it}_total")), max_size=4), st.randoms())
def test_wanted_names_give_the_same_samples_as_the_whole_page(
    made: list[Family], style: tuple[str, str, str], others: set[str], choice: Random
) -> None:
    body = text_page(made, style).encode()
    names = sorted({it.sample_name for it in made})
    wanted = frozenset(choice.sample(names, choice.randint(0, len(names)))) | others
    everything, some = parse_exposition(body), parse_exposition(body, wanted=wanted)
    assert comparable(some.samples) == [it for it in comparable(everything.samples) if it[0] in wanted]
    for name in wanted:
        assert some.is_counter(name) is everything.is_counter(name)
        assert some.declares_counter(name) is everything.declares_counter(name)


@given(st.one_of(st.binary(max_size=80), st.text('a1{}=",#\\ \n\tTYPEOF', max_size=80).map(str.encode)), st.booleans())
def test_any_bytes_are_a_page_or_an_error_that_says_why(body: bytes, is_openmetrics: bool) -> None:
    for wanted in (None, frozenset({"a"})):
        outcome = ""
        try:
            parse_exposition(body, wanted=wanted, is_openmetrics=is_openmetrics)
        except ExpositionError as error:
            outcome = str(error)
        assert not outcome or outcome.startswith(("line ", "the end mark"))
        assert outcome.isascii()
        assert outcome.isprintable()


@pytest.mark.parametrize("family", ["prompt_tokens", "request_duration_of_some_length", "a"])
def test_the_type_of_a_family_is_found_by_the_names_of_its_series(family: str) -> None:
    body = f"# TYPE {family} counter\n# TYPE {family}_other gauge\n{family}_total 1\n".encode()
    page = parse_exposition(body, wanted=frozenset({f"{family}_total", "another_name_that_is_long_enough_total"}))
    assert page.kinds[family] == "counter"
    assert len(page.samples) == 1
