# SPDX-License-Identifier: Apache-2.0
"""TLS between KEDA, an instance and its peers, in real processes: who is not known gets nothing."""

import contextlib
import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from keda_gpu_scaler.wire import fleet_pb2 as fleet_pb
from keda_gpu_scaler.wire import fleet_pb2_grpc as fleet_pb_grpc
from keda_gpu_scaler.wire.tls import ClientTls, Pem
from tests import forked
from tests.certificates import NAME, Authority, Pair
from tests.free_ports import free_port
from tests.limits import WAIT_SECONDS
from tests.polling import pause
from tests.serving import COMMAND, SERVING, Serving, recorded, refused_to_start

COUNT = {"scope": "fleet", "aggregation": "sum"}


class Secured:
    """A CA, the instances' certificate, KEDA's, and instances that insist on them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = Authority(folder)
        self.pair = self.ca.issue("instance")
        self.keda = self.ca.issue("keda", usage="clientAuth")

    def flags(self, *, client_ca: bool = True, name: str = NAME) -> tuple[str, ...]:
        known_by = "--tls-client-ca" if client_ca else "--tls-ca"
        own = ("--tls-cert", str(self.pair.certificate), "--tls-key", str(self.pair.key))
        return (*own, known_by, str(self.ca.certificate), "--tls-peer-name", name)

    def client(self, ca: Path | None = None, pair: Pair | None = None) -> ClientTls:
        pair = pair or self.keda
        own = Pem("--tls-cert", pair.certificate), Pem("--tls-key", pair.key, is_key=True)
        return ClientTls(Pem("--tls-ca", ca or self.ca.certificate), *own, NAME)

    def probing(self) -> tuple[str, ...]:
        """The flags by which ``probe`` knows an instance, and after them those by which it is known."""
        known = ("--tls-ca", str(self.ca.certificate), "--tls-server-name", NAME)
        return (*known, "--tls-cert", str(self.keda.certificate), "--tls-key", str(self.keda.key))

    def instance(self, name: str, percent: int, peers: Sequence[int] = (), flags: tuple[str, ...] = ()) -> Serving:
        """An instance whose one device does so much, and which follows those at these ports."""
        lines = ["timestamp, index, uuid, name, utilization.gpu [%]"]
        lines += [f"2026/01/01 00:00:0{second}.000, 0, GPU-{name}, NVIDIA H100, {percent} %" for second in range(2)]
        listed = "static:" + ",".join(f"127.0.0.1:{port}" for port in peers) if peers else "none"
        arguments = ("--backend", recorded(self._folder, *lines, name=f"{name}.csv"), "--node-name", name)
        # The other instances' snapshots have a second to come.
        patience = ("--peers", listed, "--stale-after", "5")
        return Serving(*arguments, *patience, *(flags or self.flags()), tls=self.client())


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path)


@contextlib.contextmanager
def two(secured: Secured, flags: tuple[str, ...] = ()) -> Iterator[tuple[Serving, Serving]]:
    """One that knows the CA's instances, and one that follows it under other flags."""
    with secured.instance("a", 30) as a, secured.instance("b", 40, [a.port], flags) as b:
        a.wait_for_health(SERVING)
        b.wait_for_health(SERVING)
        yield a, b


def test_peers_know_each_other_by_their_certificates_and_keda_is_answered_for_both(secured: Secured) -> None:
    with two(secured) as (_, b):
        while b.value_in_the_end(**COUNT) != 70.0:
            assert b.process.poll() is None
            pause()


def test_a_peer_whose_certificate_bears_another_name_is_not_believed(secured: Secured) -> None:
    with two(secured, (*secured.flags(name="other.example"), "--tls-explain-names", "keda")) as (a, b):
        # What is not seen counts as exactly at the target, 80; once the connection was refused, it is said why.
        asked = ("probe", "--address", f"127.0.0.1:{b.port}", "-m", "report=average", *secured.probing())
        while (told := _probed(*asked, "-m", "scope=fleet", "-m", "aggregation=sum", "--json"))["value"] == 80.0:
            if any(
                f"127.0.0.1:{a.port}: its certificate contains another name" in step
                for step in told["evaluation"]["steps"]
            ):
                break
            pause()
        assert b.value(**COUNT) == 80.0
        assert b.value(scope="node") == 40.0


def _probed(*command: str) -> dict[str, Any]:
    outcome = forked.run(command, timeout=WAIT_SECONDS)
    assert outcome.returncode == 0, outcome.stderr
    told: dict[str, Any] = json.loads(outcome.stdout)
    return told


def test_whoever_shows_no_certificate_of_the_ca_gets_nothing_of_any_service(secured: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    late = secured.ca.issue("late", days=-1)
    without = ClientTls(Pem("--tls-ca", secured.ca.certificate), server_name=NAME)
    with secured.instance("a", 30) as a:
        a.wait_for_health(SERVING)
        for tls in (without, secured.client(pair=stranger.issue("stranger")), secured.client(pair=late), None):
            address = f"127.0.0.1:{a.port}"
            options = (("grpc.use_local_subchannel_pool", 1), *(tls.options() if tls else ()))
            with (
                grpc.secure_channel(address, tls.credentials(), options=options)
                if tls
                else grpc.insecure_channel(address, options=options)
            ) as channel:
                watch = fleet_pb_grpc.FleetStub(channel).Watch(  # type: ignore[no-untyped-call]
                    fleet_pb.WatchRequest(), timeout=WAIT_SECONDS
                )
                with pytest.raises(grpc.RpcError) as caught:
                    next(watch)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert a.value() == 30.0


def test_a_certificate_that_is_renewed_needs_no_restart(secured: Secured) -> None:
    with two(secured) as (a, b):
        while b.value_in_the_end(**COUNT) != 70.0:
            assert b.process.poll() is None
            pause()
        secured.pair.replace(secured.ca.issue("renewed"))
        # Those that speak go on, and whoever comes now is shown the new one.
        with secured.instance("c", 50, [a.port, b.port]) as c:
            while c.value_in_the_end(**COUNT) != 120.0:
                assert c.process.poll() is None
                pause()
        assert b.value(**COUNT) == 70.0


def test_probe_asks_over_tls_and_says_what_to_try_where_it_is_refused(secured: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    known, own = secured.probing()[:4], secured.probing()[4:]
    with secured.instance("a", 30) as a:
        a.wait_for_health(SERVING)
        asked = (*COMMAND, "probe", "--address", f"127.0.0.1:{a.port}", "-m", "report=average")
        shown = subprocess.run((*asked, *known, *own), capture_output=True, text=True, check=True)
        assert "value       30" in shown.stdout
        for flags, hint in (
            ((), "if the server uses TLS, give its CA with --tls-ca"),
            (known, "if the server requires a client certificate, give one with --tls-cert and --tls-key"),
            ((*known[:2], *own), "its certificate contains another name: give that name with --tls-server-name"),
            (
                ("--tls-ca", str(stranger.certificate), *known[2:], *own),
                "its certificate is not signed by this --tls-ca",
            ),
            ((*known, *_flags(stranger.issue("stranger"))), "its client CA signed this --tls-cert"),
        ):
            refused = subprocess.run((*asked, *flags), capture_output=True, text=True, check=False)
            assert refused.returncode == 1
            assert hint in refused.stderr
            # gRPC's core library prints no line of its own before it.
            assert refused.stderr.startswith("keda-gpu-scaler: "), refused.stderr


def _flags(pair: Pair) -> tuple[str, ...]:
    return ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        pytest.param(
            ("--peers", "dns:agents:6000"),
            "--tls-ca: Required value: the other instances' certificates must be checked: name the CA that signed "
            "them, or do not follow other instances: --peers none",
            id="no CA",
        ),
        pytest.param(
            ("--peers", "dns:agents:6000", "--tls-ca", "$CA"),
            "--tls-peer-name: Required value: the other instances are dialled by their addresses, which their "
            "certificates do not contain: set the name in them, for example keda-gpu-scaler.keda.svc.cluster.local",
            id="peers by address, and no name",
        ),
        pytest.param(
            ("--peers", "none", "--tls-client-ca", "$KEY"),
            "--tls-client-ca: $KEY holds no certificate in PEM form: name a file that does",
            id="a key for a certificate",
        ),
        pytest.param(
            ("--peers", "none", "--tls-key", "$OTHER"),
            "--tls-cert, --tls-key: $CERT and $OTHER cannot be used: they must be PEM, and the key the certificate's "
            "own",
            id="another certificate's key",
        ),
    ],
)
def test_what_cannot_work_is_told_at_the_start(flags: tuple[str, ...], said: str, secured: Secured) -> None:
    files = {
        "$CA": str(secured.ca.certificate),
        "$CERT": str(secured.pair.certificate),
        "$KEY": str(secured.pair.key),
        "$OTHER": str(secured.keda.key),
    }
    own = ("--tls-cert", files["$CERT"], "--tls-key", files["$KEY"])
    given = [files.get(flag, flag) for flag in flags]
    status, sentence = refused_to_start("--backend", "none", "--port", "0", *own, *given)
    for name, path in files.items():
        said = said.replace(name, path)
    assert (status, sentence) == (1, f"keda-gpu-scaler: {said}")


def test_probe_names_the_flag_that_is_missing_or_wrong() -> None:
    for flags, said in (
        (("--tls-cert", "tls.crt"), "--tls-cert, --tls-key: belong together; give both or neither"),
        (("--tls-server-name", "x"), "--tls-ca: Required value: without it there is no TLS"),
        (("--tls-ca", "nowhere.crt"), "--tls-ca: cannot read nowhere.crt: no such file or directory"),
    ):
        outcome = forked.run(("probe", *flags), timeout=WAIT_SECONDS)
        assert outcome.returncode == 2
        assert said in outcome.stderr


def test_sighup_reads_the_certificates_again_and_ends_nothing(secured: Secured) -> None:
    with secured.instance("gpu-a", 40) as node:
        node.wait_for_health(SERVING)
        node.process.send_signal(signal.SIGHUP)
        node.wait_for_log(re.compile("certificates and credentials are read again"))
        assert node.value_in_the_end(scope="node") == 40
        assert node.process.poll() is None


def test_an_instance_warns_about_a_certificate_that_expires_in_two_days_and_exports_its_end(secured: Secured) -> None:
    metrics_port = free_port()
    with secured.instance("gpu-a", 40, flags=(*secured.flags(), "--metrics-port", str(metrics_port))) as node:
        node.wait_for_log(re.compile(r"--tls-cert: .* expires in [12] days, at "))
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=WAIT_SECONDS) as page:
            text = page.read().decode()
    found = re.findall(r'certificate_expiry_timestamp_seconds\{flag="([^"]+)"\} (\S+)', text)
    assert [flag for flag, _ in found] == ["--tls-cert", "--tls-client-ca"]
    assert all(float(ends) == pytest.approx(time.time() + 2 * 86_400, abs=3600) for _, ends in found)
