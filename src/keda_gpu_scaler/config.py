# SPDX-License-Identifier: Apache-2.0
"""The settings of ``serve``: their defaults, their help texts and their checks."""

import platform
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

MIN_SAMPLE_INTERVAL_SECONDS = 0.1
MAX_SCRAPE_INTERVAL_SECONDS = 60.0
MAX_SCRAPE_TIMEOUT_SECONDS = 60.0
DELETION_COSTS = ("none", "write", "remove")
MAX_NODE_NAME_LENGTH = 253  # as in Kubernetes


class ConfigError(Exception):
    """The settings are invalid. The text names each flag, its value and the allowed values."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of ``serve``; the defaults are the flags' defaults.

    Raises:
        ConfigError: some settings are invalid; the text has one line for each problem.
    """

    host: str = field(
        default="::", metadata={"help": "Address to listen on; :: is every interface, for IPv6 and IPv4."}
    )
    port: int = field(default=6000, metadata={"help": "gRPC port; with 0 the system chooses one."})
    metrics_port: int = field(
        default=9090, metadata={"help": "Port of the status page and /metrics; 0 switches it off."}
    )
    probe_port: int = field(default=8081, metadata={"help": "Port of /livez, /readyz and /healthz; 0 switches it off."})
    explain_port: int = field(
        default=0,
        metadata={
            "help": "Port on the loopback interface that answers Explain for people with a Kubernetes token, through a "
            "port-forward; 0 switches it off. It needs create on tokenreviews and subjectaccessreviews, and closes "
            "Explain on --port."
        },
    )
    backend: str = field(
        default="auto",
        metadata={
            "help": "Source of the readings: auto (every driver that is found), nvml, amd, intel, several of these "
            "(amd,nvml), replay:PATH, synthetic (a demonstration) or none."
        },
    )
    nvml_library: str | None = field(
        default=None,
        metadata={"help": "Path of the NVML library; libnvidia-ml.so.1 on the loader's path by default."},
    )
    sysfs_root: str = field(
        default="/sys",
        metadata={"help": "The folder at which the kernel's sysfs is mounted, for amd and intel."},
    )
    measure_shares: bool = field(
        default=False,
        metadata={
            "help": "Read what the processes of each pod use of NVIDIA's GPUs, so that pods on one GPU are divided by "
            "measurement. It needs the PID namespace of the host (hostPID)."
        },
    )
    replay_speed: float = field(
        default=1.0, metadata={"help": "Speed of replay:PATH; 2 plays twice as fast as recorded."}
    )
    sample_interval: float = field(default=1.0, metadata={"help": "Seconds between two readings of the devices."})
    stale_after: float = field(
        default=10.0, metadata={"help": "Age in seconds from which a reading is stale and counts as unknown."}
    )
    node_name: str = field(
        default_factory=platform.node,
        metadata={"help": "Name of this node in answers and logs; the host's name by default."},
    )
    pod_resources: str = field(
        default="auto",
        metadata={
            "help": "The kubelet's PodResources socket, which lists the devices of each pod: a path, off, or auto. "
            "With auto the kubelet's default path is used, if it exists."
        },
    )
    peers: str = field(
        default="auto",
        metadata={
            "help": "How to find the other instances: kubernetes or kubernetes:SERVICE (the EndpointSlices of a "
            "headless service), dns:NAME:PORT, static:HOST:PORT,…, none, or auto, which is kubernetes in a cluster."
        },
    )
    kubeconfig: str = field(
        default="auto",
        metadata={
            "help": "How to reach the API server, which knows the workloads: the path of a kubeconfig, off, or auto. "
            "With auto the pod's service account is used, if it has one."
        },
    )
    deletion_cost: str = field(
        default="none",
        metadata={
            "help": "What to do with pod-deletion-cost before a shrink: none, write (so that the ReplicaSet deletes "
            "the idlest pods first), or remove (take away what was written). It needs patch on pods."
        },
    )
    scrape_interval: float = field(
        default=2.0,
        metadata={
            "help": "Seconds between two scrapes of an engine that a trigger needs; at most half of --stale-after."
        },
    )
    scrape_timeout: float = field(
        default=5.0,
        metadata={
            "help": "Seconds within which a scraped page must arrive. An overloaded engine answers late, and a late "
            "page counts; an engine that takes longer than its interval is asked less often."
        },
    )
    demand_interval: float = field(
        default=0.5,
        metadata={"help": "Seconds between two scrapes of a demandEndpoint; at most half of --stale-after."},
    )
    allow_endpoints: str | None = field(
        default=None,
        metadata={
            "help": "The networks (10.0.0.0/8) and host names (*.web.svc.cluster.local) that URLs in triggers may name "
            "in addition to the Services and pods of their own namespace, separated by commas. Without access to the "
            "API server the list alone decides, and by default all except loopback. Link-local and metadata addresses "
            "and Kubernetes' own components are never allowed."
        },
    )
    endpoint_credentials: str | None = field(
        default=None,
        metadata={
            "help": "A directory of mounted Secrets with tokens and certificates for engines and demand endpoints. "
            "Each Secret is a directory, whose files hosts, ports, paths and namespaces say where it is sent."
        },
    )
    tls_cert: str | None = field(
        default=None,
        metadata={
            "help": "The server's certificate (PEM), followed by intermediate certificates; it switches TLS on. It is "
            "also the client certificate for other instances, so it must be valid for servers and clients."
        },
    )
    tls_key: str | None = field(default=None, metadata={"help": "The private key (PEM) of --tls-cert."})
    tls_client_ca: str | None = field(
        default=None,
        metadata={
            "help": "The CA (PEM) that must have signed every client's certificate; without it no client certificate "
            "is required."
        },
    )
    tls_ca: str | None = field(
        default=None,
        metadata={
            "help": "The CA (PEM) that must have signed the other instances' certificates; --tls-client-ca by default."
        },
    )
    tls_peer_name: str | None = field(
        default=None,
        metadata={
            "help": "The name in the other instances' certificates; by default the address that is dialled, which in a "
            "cluster is the address of a pod."
        },
    )
    tls_keda_names: str | None = field(
        default=None,
        metadata={
            "help": "The names in KEDA's certificate, separated by commas; by default every certificate of "
            "--tls-client-ca may call KEDA's four methods."
        },
    )
    tls_watch_names: str | None = field(
        default=None,
        metadata={
            "help": "The names in the certificates that may read the snapshots of this instance, separated by commas; "
            "by default --tls-peer-name, and without it every certificate of --tls-client-ca. * is every certificate."
        },
    )
    tls_explain_names: str | None = field(
        default=None,
        metadata={
            "help": "The names in the certificates that may call Explain on --port, separated by commas; by default no "
            "certificate of --tls-client-ca may. * is every certificate."
        },
    )
    log_level: str = field(default="info", metadata={"help": "debug, info, warning (or warn), error."})
    log_format: str = field(
        default="auto", metadata={"help": "text, json, or auto: text on a terminal, json elsewhere."}
    )

    def __post_init__(self) -> None:
        problems = "\n".join(self._problems())
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> Iterator[str]:
        if not 0 < self.replay_speed <= 1e6:
            yield f"--replay-speed: Invalid value: {self.replay_speed:g}: must be above 0 and at most 1000000"
        if not MIN_SAMPLE_INTERVAL_SECONDS <= self.sample_interval <= 3600:
            yield (
                f"--sample-interval: Invalid value: {self.sample_interval:g}: must be "
                f"{MIN_SAMPLE_INTERVAL_SECONDS:g} to 3600 seconds"
            )
        elif not 2 * self.sample_interval <= self.stale_after <= 86400:
            yield (
                f"--stale-after: Invalid value: {self.stale_after:g}: must be at least twice --sample-interval "
                f"({self.sample_interval:g} s), or every snapshot would be stale before the next one, and at most 86400"
            )
        yield from self._scrape_problems()
        if not self.node_name:
            yield "--node-name: Required value: it is empty and the host has no name; set it"
        elif not self.node_name.isprintable() or len(self.node_name) > MAX_NODE_NAME_LENGTH:
            yield (
                f"--node-name: Invalid value: {self.node_name[:MAX_NODE_NAME_LENGTH]!a}: must be at most "
                f"{MAX_NODE_NAME_LENGTH} printable characters"
            )
        if self.deletion_cost not in DELETION_COSTS:
            yield (
                f"--deletion-cost: Unsupported value: {self.deletion_cost[:200]!a}: must be "
                f"{', '.join(DELETION_COSTS[:-1])} or {DELETION_COSTS[-1]}"
            )
        yield from self._tls_problems()
        given = (self.port, self.metrics_port, self.probe_port, self.explain_port)
        ports = [port for port in given if port]
        if len(set(ports)) < len(ports):
            yield (
                f"--port, --metrics-port, --probe-port, --explain-port: Invalid value: {', '.join(map(str, given))}: "
                "must differ from one another"
            )

    def _scrape_problems(self) -> Iterator[str]:
        for flag, value in (("--scrape-interval", self.scrape_interval), ("--demand-interval", self.demand_interval)):
            if not MIN_SAMPLE_INTERVAL_SECONDS <= value <= MAX_SCRAPE_INTERVAL_SECONDS:
                yield (
                    f"{flag}: Invalid value: {value:g}: must be {MIN_SAMPLE_INTERVAL_SECONDS:g} to "
                    f"{MAX_SCRAPE_INTERVAL_SECONDS:g} seconds"
                )
        if not MIN_SAMPLE_INTERVAL_SECONDS <= self.scrape_timeout <= MAX_SCRAPE_TIMEOUT_SECONDS:
            yield (
                f"--scrape-timeout: Invalid value: {self.scrape_timeout:g}: must be {MIN_SAMPLE_INTERVAL_SECONDS:g} to "
                f"{MAX_SCRAPE_TIMEOUT_SECONDS:g} seconds"
            )

    def _tls_problems(self) -> Iterator[str]:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing = "--tls-key" if self.tls_key is None else "--tls-cert"
            yield f"{missing}: Required value: --tls-cert and --tls-key belong together"
        if self.tls_cert is None:
            for flag, value in (
                ("--tls-client-ca", self.tls_client_ca),
                ("--tls-ca", self.tls_ca),
                ("--tls-peer-name", self.tls_peer_name),
            ):
                if value is not None:
                    yield f"{flag}: Invalid value: {value[:200]!a}: without --tls-cert and --tls-key there is no TLS"
        for flag, value in (
            ("--tls-keda-names", self.tls_keda_names),
            ("--tls-watch-names", self.tls_watch_names),
            ("--tls-explain-names", self.tls_explain_names),
        ):
            if value is not None and self.tls_client_ca is None:
                yield f"{flag}: Invalid value: {value[:200]!a}: without --tls-client-ca clients have no names"
            elif value is not None and not all(name.strip() for name in value.split(",")):
                yield f"{flag}: Invalid value: {value[:200]!a}: must be names, separated by commas"


def listed_names(text: str | None) -> tuple[str, ...]:
    """Return the names of a list separated by commas; none where it is not given."""
    return tuple(name.strip() for name in text.split(",")) if text is not None else ()


HELP: dict[str, str] = {setting.name: setting.metadata["help"] for setting in fields(Config)}
"""The help text of each setting, by its field's name, for ``--help`` and the reference page."""
