# SPDX-License-Identifier: Apache-2.0
"""Tests of the settings."""

import click
import pytest
from click.testing import CliRunner

from keda_gpu_scaler.cli.options import flags
from keda_gpu_scaler.config import HELP, Config, ConfigError


def test_the_defaults_are_sound() -> None:
    assert (Config().port, Config().metrics_port, Config().probe_port) == (6000, 9090, 8081)
    assert (Config().sample_interval, Config().stale_after) == (1.0, 10.0)


def test_every_setting_has_a_help_text() -> None:
    assert all(text.endswith(".") for text in HELP.values())


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"replay_speed": 0.0}, "--replay-speed: Invalid value: 0: must be above 0 and at most 1000000"),
        ({"replay_speed": float("nan")}, "--replay-speed: Invalid value: nan: must be above 0 and at most 1000000"),
        ({"scrape_timeout": 0.05}, "--scrape-timeout: Invalid value: 0.05: must be 0.1 to 60 seconds"),
        ({"scrape_timeout": 61.0}, "--scrape-timeout: Invalid value: 61: must be 0.1 to 60 seconds"),
        ({"sample_interval": 0.01}, "--sample-interval: Invalid value: 0.01: must be 0.1 to 3600 seconds"),
        (
            {"stale_after": 1.5},
            "--stale-after: Invalid value: 1.5: must be at least twice --sample-interval (1 s), or every snapshot "
            "would be stale before the next one, and at most 86400",
        ),
        (
            {"port": 9090},
            "--port, --metrics-port, --probe-port, --explain-port: Invalid value: 9090, 9090, 8081, 0: must differ "
            "from one another",
        ),
        (
            {"tls_keda_names": "keda"},
            "--tls-keda-names: Invalid value: 'keda': without --tls-client-ca clients have no names",
        ),
        (
            {"tls_cert": "c", "tls_key": "k", "tls_client_ca": "ca", "tls_watch_names": "a,,b"},
            "--tls-watch-names: Invalid value: 'a,,b': must be names, separated by commas",
        ),
        ({"node_name": "n\udcff"}, "--node-name: Invalid value: 'n\\udcff': must be at most 253 printable characters"),
        ({"tls_cert": "tls.crt"}, "--tls-key: Required value: --tls-cert and --tls-key belong together"),
        (
            {"tls_client_ca": "ca.crt"},
            "--tls-client-ca: Invalid value: 'ca.crt': without --tls-cert and --tls-key there is no TLS",
        ),
        ({"node_name": ""}, "--node-name: Required value: it is empty and the host has no name; set it"),
    ],
)
def test_an_invalid_setting_is_named_with_its_value_and_its_limits(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**settings)  # type: ignore[arg-type]
    assert str(caught.value) == problem


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Config(sample_interval=0, replay_speed=-1)
    assert len(str(caught.value).splitlines()) == 2


def test_switched_off_ports_do_not_collide() -> None:
    assert Config(metrics_port=0, probe_port=0).probe_port == 0


@pytest.mark.parametrize(
    ("arguments", "environment", "printed"),
    [
        pytest.param([], {}, "False", id="off by default"),
        pytest.param(["--measure-shares"], {}, "True", id="by the flag"),
        pytest.param([], {"KEDA_GPU_SCALER_MEASURE_SHARES": "true"}, "True", id="by the variable"),
        pytest.param([], {"KEDA_GPU_SCALER_MEASURE_SHARES": "0"}, "False", id="a variable that says no"),
        pytest.param([], {"KEDA_GPU_SCALER_MEASURE_SHARES": "tcp://10.0.0.1:80"}, "False", id="a service link"),
    ],
)
def test_a_switch_is_set_by_its_flag_or_its_variable(
    arguments: list[str], environment: dict[str, str], printed: str
) -> None:
    @click.command()
    @flags("measure_shares")
    def shown(measure_shares: bool) -> None:
        click.echo(measure_shares)

    result = CliRunner().invoke(shown, arguments, env=environment)
    assert (result.exit_code, result.output) == (0, f"{printed}\n")
