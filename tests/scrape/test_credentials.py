# SPDX-License-Identifier: Apache-2.0
"""Tests of mounted credentials: which hosts receive them, and how changes are read."""

import logging
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from keda_gpu_scaler.core.urls import Url
from keda_gpu_scaler.scrape.credentials import Credentials, CredentialsError, Secret
from keda_gpu_scaler.scrape.types import Target
from tests.certificates import Authority
from tests.limits import WAIT_SECONDS

LOGGER = "keda_gpu_scaler.scrape.credentials"
_PLACE = (
    f"import sys; from {LOGGER} import Credentials; from keda_gpu_scaler.core.urls import Url; "
    "from keda_gpu_scaler.scrape.types import Target; "
    "place = Target(Url('https', 'a', 443, '/metrics'), '10.0.0.1', trigger_namespace='ai')"
)
EVERYWHERE = {"hosts": "*", "ports": "443", "namespaces": "*"}


def mount(folder: Path, name: str, files: Mapping[str, str]) -> Path:
    """Write files of a Secret; other files of the Secret remain."""
    mounted = folder / name
    mounted.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (mounted / file).write_text(content)
    return mounted


def place(host: str, pod_namespace: str | None = None) -> Target:
    """A URL, or a pod of a namespace, of a trigger that is declared in the namespace of the pod or in "ai"."""
    return Target(
        Url("https", host, 443, "/metrics"),
        "10.0.0.1",
        pod_namespace,
        pod_namespace and "pod",
        trigger_namespace=pod_namespace or "ai",
    )


def found(folder: Path, host: str, namespace: str | None = None) -> str | None:
    secret = Credentials(str(folder)).find(place(host, namespace))
    return secret.name if secret else None


@pytest.mark.parametrize(
    ("hosts", "host", "namespace", "is_matching"),
    [
        pytest.param("vllm.ai.svc", "vllm.ai.svc", None, True, id="a name"),
        pytest.param("*.ai.svc", "vllm.ai.svc", None, True, id="a glob"),
        pytest.param("*.AI.svc", "vllm.ai.svc.", None, True, id="another case, and a final dot"),
        pytest.param("*.ai.svc", "vllm.web.svc", None, False, id="another name"),
        pytest.param("*.ai.svc", "vllm.ai.svc.evil.com", None, False, id="a name with a longer suffix"),
        pytest.param("a\n\n  b  \n", "b", None, True, id="the second line"),
        pytest.param("10.0.0.0/8", "10.1.2.3", None, True, id="an address in a network"),
        pytest.param("10.0.0.0/8", "11.1.2.3", None, False, id="an address outside the network"),
        pytest.param("fd00::/8", "fd00::1", None, True, id="an IPv6 address"),
        pytest.param("10.0.0.0/8", "fd00::1", None, False, id="an address of the other family"),
        pytest.param("10.0.0.0/8", "vllm.ai.svc", None, False, id="a name does not match a network"),
        pytest.param("pods:ai", "10.1.2.3", "ai", True, id="a pod of the namespace"),
        pytest.param("pods:ai", "10.1.2.3", "web", False, id="a pod of another namespace"),
        pytest.param("pods:ai", "10.1.2.3", None, False, id="a URL with the address of a pod"),
        pytest.param("pods:ai", "pods:ai", None, False, id="a host name like a pods entry"),
        pytest.param("10.0.0.0/8\n*", "10.1.2.3", "ai", False, id="a pod matches only its namespace"),
    ],
)
def test_a_secret_is_for_its_hosts(
    tmp_path: Path, hosts: str, host: str, namespace: str | None, is_matching: bool
) -> None:
    mount(tmp_path, "one", {"hosts": hosts})
    assert found(tmp_path, host, namespace) == ("one" if is_matching else None)


def test_the_first_matching_secret_by_name_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount(tmp_path, "a", {"hosts": "other"})
    for name in "bc":
        mount(tmp_path, name, {"hosts": "*.ai"})
    # The order of the files in a directory is not defined.
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter([folder / "c", folder / "b", folder / "a"]))
    assert found(tmp_path, "vllm.ai") == "b"


def test_files_and_hidden_directories_are_ignored(tmp_path: Path) -> None:
    mount(tmp_path, "..data", {"hosts": "*"})
    (tmp_path / "README").write_text("not a Secret")
    assert found(tmp_path, "vllm.ai") is None


def test_without_a_directory_there_are_no_credentials() -> None:
    credentials = Credentials()
    credentials.refresh()
    assert credentials.find(place("vllm.ai")) is None


def test_the_files_of_a_secret_are_read(tmp_path: Path) -> None:
    mount(tmp_path, "one", {**EVERYWHERE, "token": "word\n", "server-name": "vllm.ai\n", "insecure-token": ""})
    secret = Credentials(str(tmp_path)).find(place("vllm.ai"))
    assert secret is not None
    assert (secret.token, secret.server_name, secret.is_token_for_http) == ("word", "vllm.ai", True)
    mount(tmp_path, "one", {"hosts": "*"})
    (tmp_path / "one" / "insecure-token").unlink()
    again = Credentials(str(tmp_path)).find(place("vllm.ai"))
    assert again is not None
    assert not again.is_token_for_http


@pytest.mark.parametrize(
    ("files", "named", "why"),
    [
        pytest.param({}, "hosts", "Required value: list the hosts of these credentials", id="no hosts"),
        pytest.param(
            {"hosts": " \n"}, "hosts", "Required value: list the hosts of these credentials", id="blank hosts"
        ),
        pytest.param(
            {"hosts": "10.0.0.1/8"}, "hosts", '"10.0.0.1/8": must be a network', id="a network with host bits"
        ),
        pytest.param({"hosts": "*\nhttp://a"}, "hosts", '"http://a": must be a network', id="a URL"),
        pytest.param({"hosts": "a:8000"}, "hosts", '"a:8000": must be a network', id="a port"),
        pytest.param({"hosts": "pods:"}, "hosts", '"pods:": must name one namespace', id="no namespace"),
        pytest.param({"hosts": "pods:*"}, "hosts", '"pods:\\*": must name one namespace', id="every namespace"),
        pytest.param({"hosts": "a\n" * 40_000}, "hosts", "Too long: must have at most 64 KiB", id="too many hosts"),
        pytest.param({"hosts": "*", "token": ""}, "token", "must be one line of printable ASCII", id="an empty token"),
        pytest.param({"hosts": "*", "token": "a\r\nb"}, "token", "must be one line", id="a token of two lines"),
        pytest.param({"hosts": "*", "token": "wörd"}, "token", "must be one line", id="a token that is not ASCII"),
        pytest.param(
            {"hosts": "*", "tls.crt": ""},
            "tls.key",
            "tls.crt and tls.key belong together",
            id="a certificate without a key",
        ),
        pytest.param(
            {"hosts": "*", "tls.key": ""},
            "tls.crt",
            "tls.crt and tls.key belong together",
            id="a key without a certificate",
        ),
        pytest.param({"hosts": "*", "server-name": "a b"}, "server-name", "must be one host name", id="two names"),
    ],
)
def test_an_invalid_file_is_reported(tmp_path: Path, files: dict[str, str], named: str, why: str) -> None:
    mounted = mount(tmp_path, "one", files)
    with pytest.raises(CredentialsError, match=why) as raised:
        Credentials(str(tmp_path))
    assert f"--endpoint-credentials: {mounted / named}: " in str(raised.value)


def test_a_binary_file_is_reported(tmp_path: Path) -> None:
    (mount(tmp_path, "one", {}) / "hosts").write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialsError, match=r"one/hosts: cannot be read: "):
        Credentials(str(tmp_path))


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        CredentialsError, match=r"none\": no such file or directory; must be a directory with one subdirectory"
    ):
        Credentials(str(tmp_path / "none"))


# ---- changes ----


def refreshed(credentials: Credentials) -> Secret:
    credentials.refresh()
    secret = credentials.find(place("vllm.ai"))
    assert secret is not None
    return secret


def test_unchanged_files_give_the_same_object(tmp_path: Path) -> None:
    mount(tmp_path, "one", {**EVERYWHERE, "token": "word"})
    credentials = Credentials(str(tmp_path))
    assert refreshed(credentials) is refreshed(credentials)


def test_a_token_is_read_again_when_the_kubelet_replaces_its_link(tmp_path: Path) -> None:
    """The kubelet writes a new directory and replaces the link through which each file is read."""
    mounted = tmp_path / "mounts" / "one"
    for version in ("old", "new"):
        mount(mounted, f"..{version}", {**EVERYWHERE, "token": version})
    (mounted / "..data").symlink_to("..old")
    for file in (*EVERYWHERE, "token"):
        (mounted / file).symlink_to(f"..data/{file}")
    credentials = Credentials(str(tmp_path / "mounts"))
    before = refreshed(credentials)
    (mounted / "..fresh").symlink_to("..new")
    (mounted / "..fresh").replace(mounted / "..data")
    after = refreshed(credentials)
    assert (before.token, after.token) == ("old", "new")
    assert before.fingerprint != after.fingerprint


def test_a_secret_is_mounted_and_removed_later(tmp_path: Path) -> None:
    credentials = Credentials(str(tmp_path))
    mounted = mount(tmp_path, "one", {"hosts": "*"})
    assert refreshed(credentials).name == "one"
    (mounted / "hosts").unlink()
    mounted.rmdir()
    credentials.refresh()
    assert credentials.find(place("vllm.ai")) is None


def test_a_secret_that_becomes_invalid_is_not_used_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mount(tmp_path, "one", {**EVERYWHERE, "hosts": "*.ai", "token": "word"})
    mount(tmp_path, "two", {**EVERYWHERE, "token": "other"})
    credentials = Credentials(str(tmp_path))
    mount(tmp_path, "one", {"hosts": ""})
    with caplog.at_level(logging.WARNING, LOGGER):
        assert "one/hosts: Required value" in str(refreshed(credentials).fault)
        assert "one/hosts: Required value" in str(refreshed(credentials).fault)
    assert len(caplog.messages) == 1
    other = credentials.find(place("vllm.web"))
    assert other is not None
    assert other.fault is None

    mount(tmp_path, "one", {"hosts": "*.ai"})
    assert (refreshed(credentials).name, refreshed(credentials).fault) == ("one", None)


def test_an_invalid_new_secret_is_logged_and_does_not_affect_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mount(tmp_path, "two", {"hosts": "*"})
    credentials = Credentials(str(tmp_path))
    mount(tmp_path, "one", {})
    with caplog.at_level(logging.WARNING, LOGGER):
        assert (refreshed(credentials).name, refreshed(credentials).fault) == ("two", None)
    assert [message for message in caplog.messages if "one/hosts: Required value" in message]


def test_a_directory_that_is_temporarily_unreadable(tmp_path: Path) -> None:
    mount(tmp_path / "mounts", "one", {"hosts": "*"})
    credentials = Credentials(str(tmp_path / "mounts"))
    (tmp_path / "mounts").rename(tmp_path / "elsewhere")
    assert "no such file or directory" in str(refreshed(credentials).fault)
    (tmp_path / "elsewhere").rename(tmp_path / "mounts")
    assert refreshed(credentials).fault is None


# ---- TLS ----


def test_a_tls_context_is_reused_until_a_file_changes(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    mount(tmp_path / "mounts", "one", {"hosts": "*", "ca.crt": authority.certificate.read_text()})
    credentials = Credentials(str(tmp_path / "mounts"))
    first = credentials.context(refreshed(credentials))
    assert credentials.context(refreshed(credentials)) is first
    assert [issuer["subject"] for issuer in first.get_ca_certs()] == [((("commonName", "ca"),),)]
    mount(tmp_path / "mounts", "one", {"ca.crt": other.certificate.read_text() + "\n"})
    second = credentials.context(refreshed(credentials))
    assert [issuer["subject"] for issuer in second.get_ca_certs()] == [((("commonName", "other"),),)]


def test_the_server_is_always_verified(tmp_path: Path) -> None:
    mount(tmp_path, "one", {"hosts": "*"})
    credentials = Credentials(str(tmp_path))
    for secret in (None, refreshed(credentials)):
        context = credentials.context(secret)
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        pytest.param({"ca.crt": "no PEM"}, "ca.crt", id="an invalid CA"),
        pytest.param({"ca.crt": ""}, "ca.crt", id="an empty CA"),
        pytest.param({"tls.crt": "no PEM", "tls.key": "no PEM"}, "tls.crt", id="an invalid certificate"),
    ],
)
def test_an_invalid_certificate_is_reported_with_its_file(tmp_path: Path, files: dict[str, str], named: str) -> None:
    mounted = mount(tmp_path, "one", {**EVERYWHERE, **files})
    credentials = Credentials(str(tmp_path))
    with pytest.raises(CredentialsError, match=r"cannot be used: .*; it must be PEM") as raised:
        credentials.context(refreshed(credentials))
    assert str(mounted / named) in str(raised.value)


def test_a_key_with_a_passphrase_is_refused_without_a_prompt(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("client")
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-aes256", "-passout", "pass:word", "-in", str(pair.key), "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    files = {"tls.crt": pair.certificate.read_text(), "tls.key": locked.read_text()}
    mount(tmp_path / "mounts", "one", {**EVERYWHERE, **files})
    # Without a terminal OpenSSL would read the passphrase from the standard input.
    completed = run_in_process(
        "credentials = Credentials(sys.argv[1]); credentials.context(credentials.find(place))",
        tmp_path / "mounts",
        stdin="word\n",
    )
    assert "tls.crt: cannot be used" in completed.stderr


def test_openssl_is_not_loaded_for_tokens(tmp_path: Path) -> None:
    mount(tmp_path, "one", {**EVERYWHERE, "token": "word"})
    completed = run_in_process("print(Credentials(sys.argv[1]).find(place).token, 'ssl' in sys.modules)", tmp_path)
    assert completed.stdout == "word False\n"


def run_in_process(program: str, folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"{_PLACE}; {program}", str(folder)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
        start_new_session=True,
    )
