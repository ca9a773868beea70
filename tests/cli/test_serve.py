# SPDX-License-Identifier: Apache-2.0
"""Tests ``serve`` as a process, with a fake driver that has the interface of the real one."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from keda_gpu_scaler.cli import main
from keda_gpu_scaler.cli.options import config_of
from keda_gpu_scaler.wire import externalscaler_pb2 as pb
from keda_gpu_scaler.wire import externalscaler_pb2_grpc as pb_grpc
from tests.fake_nvml import GIB, LIB_RM_VERSION_MISMATCH, FakeNvml, Memory
from tests.free_ports import free_port
from tests.limits import WAIT_SECONDS
from tests.serving import COMMAND, NOT_SERVING, SERVING, Serving, recorded, ref, refused_to_start

HEADER = "timestamp, index, name, utilization.gpu [%], memory.used [MiB], memory.total [MiB]"
NOW = {"windowSeconds": "0"}


def with_driver(fake: FakeNvml, *arguments: str, is_interpreter_part: bool = False) -> Serving:
    """An instance that reads the fake driver.

    Where its interpreter has a part in how it ends, as with threads that hang, it starts from nothing, and with the
    usual buffers.
    """
    driver = ("--backend", "nvml", "--nvml-library", fake.library)
    launcher = ("env", "-u", "PYTHONUNBUFFERED") if is_interpreter_part else ()
    return Serving(*driver, *arguments, environment=fake.environment, launcher=launcher)


def test_a_node_with_a_driver_is_served_with_every_metric(fake_nvml: FakeNvml) -> None:
    busy = fake_nvml.device(1)
    busy.utilisation = (92, 40)
    busy.memory = Memory(used=60 * GIB, total=80 * GIB)
    busy.temperature = 71
    busy.power_milliwatts = 650_500
    with with_driver(fake_nvml) as node:
        node.wait_for_health(SERVING)
        assert {
            metric: node.value(metricType=metric, gpuIndex="1", **NOW)
            for metric in (
                "gpu_utilization",
                "memory_utilization",
                "memory_used_mib",
                "memory_used_percent",
                "temperature",
                "power_draw",
            )
        } == {
            "gpu_utilization": 92,
            "memory_utilization": 40,
            "memory_used_mib": 60 * 1024,
            "memory_used_percent": 75,
            "temperature": 71,
            "power_draw": 650.5,
        }
        assert node.value(aggregation="avg", **NOW) == 46
        assert node.refusal(gpuIndex="2") == (
            grpc.StatusCode.FAILED_PRECONDITION,
            f"ai/llama: metadata.gpuIndex: node {socket.gethostname()} has no device 2: it has 0, 1; -1 means all",
        )


def test_a_missing_library_is_retried_and_answers_name_it(fake_nvml: FakeNvml) -> None:
    library = Path(fake_nvml.library)
    hidden = library.rename(library.with_suffix(".hidden"))
    with with_driver(fake_nvml) as node:
        node.wait_for_log(re.compile("cannot load"))
        code, sentence = node.refusal()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert sentence.startswith(f"ai/llama: no sample yet: cannot load {library}: ")
        assert node.is_active(activationThreshold="99")
        hidden.rename(library)
        node.wait_for_health(SERVING)
        assert node.value() == 0


def test_a_library_without_a_symbol_is_named_with_it(make_fake_nvml: object) -> None:
    fake: FakeNvml = make_fake_nvml("init")  # type: ignore[operator]
    with with_driver(fake) as node:
        node.wait_for_log(re.compile("has no nvmlInitWithFlags"))
        assert "has no nvmlInitWithFlags" in node.refusal()[1]


def test_no_device_is_an_error_and_not_a_zero(fake_nvml: FakeNvml) -> None:
    fake_nvml.devices = []
    with with_driver(fake_nvml) as node:
        node.wait_for_log(re.compile("lists no device"))
        code, sentence = node.refusal()
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "the NVIDIA driver answers but lists no device; set NVIDIA_VISIBLE_DEVICES=all" in sentence


def test_the_health_follows_a_driver_that_fails_and_recovers(fake_nvml: FakeNvml) -> None:
    with with_driver(fake_nvml, "--stale-after", "0.5") as node:
        node.wait_for_health(SERVING)
        fake_nvml.driver_gone(LIB_RM_VERSION_MISMATCH)
        node.wait_for_health(NOT_SERVING)
        assert node.refusal_in_the_end("restart the pod") is grpc.StatusCode.UNAVAILABLE
        fake_nvml.driver_back()
        node.wait_for_health(SERVING)
        assert node.value_in_the_end() == 0


def test_a_lost_card_is_unknown_until_it_is_back(fake_nvml: FakeNvml) -> None:
    fake_nvml.device(0).utilisation = (10, 0)
    with with_driver(fake_nvml, "--stale-after", "0.5") as node:
        node.wait_for_health(SERVING)
        fake_nvml.lose(1)
        unknown = "gpu_utilization is unknown for 1 of 2 devices: GPU 1"
        assert node.refusal_in_the_end(unknown, minCoverage="1", **NOW) is grpc.StatusCode.UNAVAILABLE
        assert node.value_in_the_end(gpuIndex="0", **NOW) == 10
        fake_nvml.find(1)
        assert node.value_in_the_end(gpuIndex="1", **NOW) == 0


def test_a_call_that_hangs_delays_no_answer_and_no_stop(fake_nvml: FakeNvml) -> None:
    with with_driver(fake_nvml, "--stale-after", "0.3", is_interpreter_part=True) as node:
        node.wait_for_health(SERVING)
        fake_nvml.hang()
        fake_nvml.wait_until_hanging()
        node.wait_for_health(NOT_SERVING)
        assert node.refusal_in_the_end("no fresh sample") is grpc.StatusCode.UNAVAILABLE
        assert node.is_active(activationThreshold="99")
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(WAIT_SECONDS) == 0


def test_a_driver_that_hangs_while_it_closes_does_not_delay_the_stop(fake_nvml: FakeNvml) -> None:
    with with_driver(fake_nvml, is_interpreter_part=True) as node:
        node.wait_for_health(SERVING)
        fake_nvml.hang("shutdown")
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(WAIT_SECONDS) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_a_stream_ends_it_with_ok_and_the_process_with_zero(
    fake_nvml: FakeNvml, number: signal.Signals
) -> None:
    fake_nvml.device(0).utilisation = (50, 0)
    with with_driver(fake_nvml, is_interpreter_part=True) as node:
        node.wait_for_health(SERVING)
        stream = node.stub.StreamIsActive(ref(), timeout=WAIT_SECONDS)
        assert next(stream).result is True
        node.process.send_signal(number)
        assert list(stream) == []
        assert stream.code() is grpc.StatusCode.OK
        assert node.process.wait(WAIT_SECONDS) == 0


def test_a_log_of_nvidia_smi_is_replayed_as_current_readings(tmp_path: Path) -> None:
    backend = recorded(
        tmp_path,
        HEADER,
        "2025/01/31 14:02:03.000, 0, NVIDIA L4, 37 %, 1024 MiB, 4096 MiB",
        "2025/01/31 14:02:03.000, 1, NVIDIA L4, [N/A], 2048 MiB, 4096 MiB",
    )
    with Serving("--backend", backend) as node:
        node.wait_for_health(SERVING)
        assert node.value(gpuIndex="0") == 37
        assert node.value(metricType="memory_used_percent") == 50
        assert node.refusal(gpuIndex="1")[0] is grpc.StatusCode.UNAVAILABLE


def test_a_port_in_use_ends_the_start_with_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert refused_to_start("--backend", "synthetic", "--port", str(port)) == (
            1,
            f"keda-gpu-scaler: --port: cannot listen on 127.0.0.1 port {port}: is another server there? Stop it, or "
            "choose another port",
        )


def test_auto_without_a_library_names_the_library_and_the_other_backends() -> None:
    status, sentence = refused_to_start("--nvml-library", "/nowhere/libnvidia-ml.so.1", "--sysfs-root", "/nowhere")
    assert status == 1
    assert sentence.startswith("keda-gpu-scaler: --backend auto: no AMD GPU here (/nowhere/class/drm: ")
    assert ", no NVIDIA driver library here (/nowhere/" in sentence
    assert sentence.endswith("synthetic (a demonstration load, not a measurement)")


def test_a_missing_recording_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    status, sentence = refused_to_start("--backend", f"replay:{tmp_path}/gone.csv")
    assert status == 1
    assert f"{tmp_path}/gone.csv" in sentence


def test_a_log_without_a_line_that_can_be_read_ends_the_start_with_file_line_and_reason(tmp_path: Path) -> None:
    status, sentence = refused_to_start("--backend", recorded(tmp_path, HEADER, "lots of text", "more of it"))
    assert status == 1
    assert "gpus.csv" in sentence
    assert "line 2: has 1 columns: must have 6" in sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "70000"], "70000 is not in the range 0<=x<=65535"),
        (["--log-format", "xml"], "'xml' is not one of 'auto', 'text', 'json'"),
    ],
)
def test_wrong_usage_is_exit_status_2(arguments: list[str], sentence: str) -> None:
    outcome = CliRunner().invoke(main, ["serve", "--backend", "none", *arguments])
    assert outcome.exit_code == 2
    assert sentence in outcome.output


def test_contradictory_settings_are_exit_status_2() -> None:
    status, sentence = refused_to_start("--backend", "none", "--sample-interval", "0")
    assert (status, sentence) == (2, "Error: --sample-interval: Invalid value: 0: must be 0.1 to 3600 seconds")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_start_is_exit_status_0(number: signal.Signals) -> None:
    signals = f"signal.raise_signal({number.value})"
    script = f"import signal; from keda_gpu_scaler.cli.serve import _StopSignals; _StopSignals(); {signals}"
    assert subprocess.run([sys.executable, "-c", f"{script}; raise AssertionError"], check=False).returncode == 0


def test_unread_log_lines_delay_no_answer(fake_nvml: FakeNvml) -> None:
    with with_driver(fake_nvml, is_interpreter_part=True) as node:
        node.wait_for_health(SERVING)
        for number in range(600):  # a pipe takes about three hundred lines
            assert node.refusal(targetValue=f"x{number}{'y' * 100}")[0] is grpc.StatusCode.INVALID_ARGUMENT
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(WAIT_SECONDS) == 0


def test_serve_works_with_a_closed_standard_error() -> None:
    port = free_port()
    serve = f"exec {sys.executable} -m keda_gpu_scaler serve --host 127.0.0.1 --port {port} --backend synthetic"
    with subprocess.Popen(["sh", "-c", f"{serve} --metrics-port 0 --probe-port 0 2>&-"]) as process:  # noqa: S607
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = pb_grpc.ExternalScalerStub(channel)  # type: ignore[no-untyped-call]
            answer = stub.GetMetricSpec(ref(), wait_for_ready=True, timeout=WAIT_SECONDS)
            assert answer.metricSpecs[0].targetSizeFloat == 80
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_SECONDS) == 0


def test_a_flag_is_also_an_environment_variable(tmp_path: Path) -> None:
    environment = {"KEDA_GPU_SCALER_BACKEND": "none", "KEDA_GPU_SCALER_NODE_NAME": "gpu-9"}
    with Serving(environment=environment) as node:
        assert node.refusal()[0] is grpc.StatusCode.FAILED_PRECONDITION


def test_a_service_link_of_kubernetes_is_not_a_port() -> None:
    """With a Service of this name, every container has KEDA_GPU_SCALER_PORT=tcp://…, which is not a setting."""
    command = main.get_command(None, "serve")  # type: ignore[arg-type]
    assert command is not None
    environment = {"KEDA_GPU_SCALER_PORT": "tcp://10.96.7.1:6000", "KEDA_GPU_SCALER_METRICS_PORT": "9191"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        context = command.make_context("serve", [])
    config = config_of(context.params)
    assert (config.port, config.metrics_port) == (6000, 9191)


def test_a_refused_trigger_is_one_json_line_in_the_log(fake_nvml: FakeNvml) -> None:
    with with_driver(fake_nvml) as node:
        assert node.refusal(targetValue="eighty")[0] is grpc.StatusCode.INVALID_ARGUMENT
        node.wait_for_log(re.compile("metadata.targetValue"))
    [entry] = [entry for entry in node.log if "metadata.targetValue" in entry["message"]]
    assert entry["level"] == "warning"
    assert {"time", "level", "logger", "message"} <= entry.keys()


def test_too_large_and_invalid_messages_are_refused_and_the_server_continues(fake_nvml: FakeNvml) -> None:
    with with_driver(fake_nvml) as node:
        node.wait_for_health(SERVING)
        huge = pb.ScaledObjectRef(name="x" * (2 << 20))
        with pytest.raises(grpc.RpcError) as caught:
            node.stub.IsActive(huge, timeout=WAIT_SECONDS)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with socket.create_connection(("127.0.0.1", node.port)) as peer:
            peer.sendall(os.urandom(1024))
        assert node.value() == 0


def test_the_module_is_the_command() -> None:
    shown = subprocess.run((*COMMAND, "version"), capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"keda-gpu-scaler \d+\.\d+\.\d+ \(Python 3\.\d+\.\d+\S*\)\n", shown)


def test_sighup_reads_changed_credentials_again(tmp_path: Path) -> None:
    secret = tmp_path / "credentials" / "engine"
    secret.mkdir(parents=True)
    (secret / "hosts").write_text("*.ai.svc\n")
    with Serving("--backend", "synthetic", "--endpoint-credentials", str(secret.parent)) as node:
        (secret / "hosts").write_text("not a host!\n")
        node.process.send_signal(signal.SIGHUP)
        node.wait_for_log(re.compile(r"--endpoint-credentials: .*hosts: Invalid value"))
        node.wait_for_health(SERVING)
        assert node.process.poll() is None
