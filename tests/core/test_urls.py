# SPDX-License-Identifier: Apache-2.0
"""Tests that an accepted URL has one interpretation only."""

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keda_gpu_scaler.core.urls import MAX_URL_LENGTH, Url, UrlError, parse_url

NO_URL = "a URL of at most 2048 printable ASCII characters"
PORTS = "a port from 1 to 65535"
SCHEME = "must begin with http:// or https://"
USER = "no user name, password or fragment"
HOST = "must name a host"
IPV4 = "four numbers from 0 to 255"
IPV6 = "an IPv6 address in brackets, without a zone"


@pytest.mark.parametrize(
    ("text", "url", "written"),
    [
        pytest.param("http://vllm.ai.svc:8000/metrics", Url("http", "vllm.ai.svc", 8000, "/metrics"), None, id="all"),
        pytest.param("http://vllm", Url("http", "vllm", 80, "/"), "http://vllm/", id="a host alone"),
        pytest.param("https://vllm/m", Url("https", "vllm", 443, "/m"), None, id="TLS has a port of its own"),
        pytest.param("https://vllm:80/", Url("https", "vllm", 80, "/"), None, id="the other scheme's port"),
        pytest.param("http://vllm:80/", Url("http", "vllm", 80, "/"), "http://vllm/", id="the default port, given"),
        pytest.param(
            "HTTP://VLLM.AI/Metrics", Url("http", "vllm.ai", 80, "/Metrics"), "http://vllm.ai/Metrics", id="case"
        ),
        pytest.param("http://vllm?a=b&c", Url("http", "vllm", 80, "/?a=b&c"), "http://vllm/?a=b&c", id="a query alone"),
        pytest.param(
            "http://vllm/a%0d%0ab/../c", Url("http", "vllm", 80, "/a%0d%0ab/../c"), None, id="a path as it is"
        ),
        pytest.param("http://10.1.2.3:1/", Url("http", "10.1.2.3", 1, "/"), None, id="an address"),
        pytest.param(
            "http://[FD00:0::1]:65535/", Url("http", "fd00::1", 65535, "/"), "http://[fd00::1]:65535/", id="IPv6"
        ),
        pytest.param("http://a_b.c-d./", Url("http", "a_b.c-d.", 80, "/"), None, id="a name with its last dot"),
        pytest.param("http://1.example/", Url("http", "1.example", 80, "/"), None, id="a number in a name"),
    ],
)
def test_a_url_in_parts(text: str, url: Url, written: str | None) -> None:
    assert parse_url(text) == url
    assert str(url) == (written or text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", NO_URL, id="empty text"),
        pytest.param("http://vllm/" + "a" * MAX_URL_LENGTH, NO_URL, id="too long"),
        pytest.param("http://vllm/a b", NO_URL, id="a blank"),
        pytest.param("http://vllm/\r\nHost: other", NO_URL, id="another line"),
        pytest.param("\x00http://vllm/", NO_URL, id="a control character that a parser may ignore"),
        pytest.param("http://vl\tlm/", NO_URL, id="a tab that a parser may ignore"),
        pytest.param("http://vllm\uff0fmetrics", NO_URL, id="a character that looks like a slash"),
        pytest.param("http://good\\@evil/", NO_URL, id="a backslash, which some parsers read as a slash"),
        pytest.param("vllm:8000/metrics", SCHEME, id="no scheme"),
        pytest.param("//vllm/", SCHEME, id="no scheme, but slashes"),
        pytest.param("ftp://vllm/", SCHEME, id="FTP"),
        pytest.param("file:///etc/passwd", SCHEME, id="a file"),
        pytest.param("http://user@vllm/", USER, id="a user"),
        pytest.param("http://user:word@vllm/", USER, id="a password"),
        pytest.param("http://@vllm/", USER, id="an empty user"),
        pytest.param("http://good#@evil/", USER, id="a fragment to some parsers and a user to others"),
        pytest.param("http://vllm/#", USER, id="an empty fragment"),
        pytest.param("http://vllm:0/", PORTS, id="port 0"),
        pytest.param("http://vllm:65536/", PORTS, id="a port too high"),
        pytest.param("http://vllm:/", PORTS, id="an empty port"),
        pytest.param("http://vllm:+80/", PORTS, id="a port with a sign"),
        pytest.param("http://vllm:http/", PORTS, id="a port that is a name"),
        pytest.param("http://vllm:80:90/", PORTS, id="two ports"),
        pytest.param("http://[::1]:/", PORTS, id="an empty port after brackets"),
        pytest.param("http:///metrics", HOST, id="no host"),
        pytest.param("http:metrics", HOST, id="no slashes"),
        pytest.param("http://a..b/", HOST, id="two dots"),
        pytest.param("http://-a/", HOST, id="a hyphen to begin with"),
        pytest.param("http://a%2eb/", HOST, id="escapes in a name"),
        pytest.param("http://a,b/", HOST, id="a comma"),
        pytest.param("http://" + ".".join(["a" * 60] * 5) + "/", HOST, id="a name too long"),
        pytest.param("http://" + "a" * 64 + "/", HOST, id="a label too long"),
        pytest.param("http://2130706433/", IPV4, id="an address as one number"),
        pytest.param("http://0x7f000001/", IPV4, id="an address as one number in hexadecimal"),
        pytest.param("http://127.1/", IPV4, id="an abbreviated address"),
        pytest.param("http://0x7f.0.0.1/", IPV4, id="an address with a number in hexadecimal"),
        pytest.param("http://0177.0.0.1/", IPV4, id="an address with a number that some parsers read as octal"),
        pytest.param("http://127.0.0.1./", IPV4, id="an address with a dot at the end"),
        pytest.param("http://1.2.3.256/", IPV4, id="an address with a number too high"),
        pytest.param("http://a.0x/", IPV4, id="a name that ends like a number"),
        pytest.param("http://[fe80::1%25eth0]/", IPV6, id="a zone"),
        pytest.param("http://[fe80::1%eth0]/", IPV6, id="a zone that is not escaped"),
        pytest.param("http://[::1]x:80/", IPV6, id="something after the brackets"),
        pytest.param("http://x[::1]/", IPV6, id="something before the brackets"),
        pytest.param("http://[vllm]/", f"{IPV6}|{PORTS}", id="a name in brackets"),
        pytest.param("http://[v1.a]/", f"{IPV6}|{PORTS}", id="an address of a future version"),
        pytest.param("http://[::1/", f"{IPV6}|{PORTS}", id="half a bracket"),
    ],
)
def test_other_text_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(UrlError, match=why):
        parse_url(text)


_SPELT = "http https :// / : @ [ ] ::1 fd00::1 %25 10.1.2.3 0x7f vllm . a 1 ? # - 80 8000 \\ // metrics %00 { _ é"
_PIECES = st.sampled_from([*_SPELT.split(" "), " ", "\t", '"'])
_TEXTS = st.one_of(
    st.text(),
    st.lists(_PIECES).map("".join),
    st.lists(_PIECES).map(lambda pieces: "http://" + "".join(pieces)),
    st.text(alphabet="abAB01.-:[]/?x").map(lambda text: "https://" + text),
)


@given(_TEXTS)
@example("http://[::1]x:80/")
def test_every_text_is_a_url_or_a_reason(text: str) -> None:
    try:
        text_or_reason = str(parse_url(text))
    except UrlError as error:
        text_or_reason = str(error)
    assert text_or_reason.startswith("must ") or str(parse_url(text_or_reason)) == text_or_reason


@given(_TEXTS)
@example("http://[::1]x:80/")
@example("http://good\\@evil/")
def test_httpx_reads_an_accepted_url_in_the_same_way(text: str) -> None:
    try:
        url = parse_url(text)
        other = httpx.URL(text)
    except (UrlError, httpx.InvalidURL, UnicodeError):
        return
    assert (url.scheme, url.host) == (other.scheme, other.host)
    assert url.port == (other.port or {"http": 80, "https": 443}[url.scheme])
