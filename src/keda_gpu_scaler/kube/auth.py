# SPDX-License-Identifier: Apache-2.0
"""How is the API server reached, and as whom? By the pod's own service account, or by a kubeconfig.

The law of this module: it reads files and decides nothing later than at the start, but for the token, which
Kubernetes renews: that is read again.
"""

import base64
import binascii
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.core.quoting import quoted

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """An API server and an identity.

    ``server`` is a URL; ``namespace`` the one that we are in. ``ca_data`` holds certificates in PEM, empty where the
    system's are meant; ``client_pem`` names a file with a client certificate and its key, and ``token_file`` one with
    a bearer token, where ``token`` does not hold it.
    """

    server: str
    namespace: str
    ca_data: str = ""
    is_verified: bool = True
    token: str = ""
    token_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def authorization(self) -> dict[str, str]:
        """Return the headers that say who we are; reads the token anew.

        Raises:
            KubeError: the token cannot be read.
        """
        token = self.token or (_read(self.token_file).strip() if self.token_file else "")
        return {"Authorization": f"Bearer {token}"} if token else {}


def in_cluster() -> bool:
    """Whether this process runs in a pod that has a service account's token."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (SERVICE_ACCOUNT / "token").exists()


def service_account() -> ClientConfig:
    """Read the pod's own service account.

    Raises:
        KubeError: there is none.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise KubeError("--kubeconfig: this is no pod of a cluster (KUBERNETES_SERVICE_HOST is not set): name a file")
    return ClientConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=_read(SERVICE_ACCOUNT / "namespace").strip(),
        ca_data=_read(SERVICE_ACCOUNT / "ca.crt"),
        token_file=SERVICE_ACCOUNT / "token",
    )


def kubeconfig(path: Path, scratch: Path, *, runs_plugins: bool = False) -> ClientConfig:
    """Read a kubeconfig's current context.

    Args:
        path: the file.
        scratch: a folder of ours, for a client certificate that stands in the kubeconfig itself: TLS wants files.
        runs_plugins: whether a plugin that logs in is run, which is for commands at a person's shell alone.

    Raises:
        KubeError: it cannot be read, or uses what is not supported: plugins that log in.
    """
    import yaml

    try:
        config = yaml.safe_load(_read(path))
    except yaml.YAMLError as error:
        raise KubeError(f"--kubeconfig: {path} is no YAML: {str(error)[:200]}") from error
    file = _Kubeconfig(path, config if isinstance(config, dict) else {}, scratch, runs_plugins=runs_plugins)
    return file.access()


class _Kubeconfig:
    """One kubeconfig, with complaints that name the file and the field."""

    def __init__(self, path: Path, config: dict[str, Any], scratch: Path, *, runs_plugins: bool) -> None:
        self._path = path
        self._config = config
        self._scratch = scratch
        self._runs_plugins = runs_plugins

    def access(self) -> ClientConfig:
        context = self._named("contexts", "context", str(self._config.get("current-context", "")))
        cluster = self._named("clusters", "cluster", str(context.get("cluster", "")))
        user = self._named("users", "user", str(context["user"])) if context.get("user") else {}
        if self._runs_plugins and isinstance(user.get("exec"), dict):
            user = self._logged_in(user["exec"])
        for plugin in ("exec", "auth-provider"):
            if plugin in user:
                self._refuse(f"users.{plugin}: Forbidden: plugins are not run: use a token or a client certificate")
        server = str(cluster.get("server", ""))
        if not server.startswith(("https://", "http://")):
            self._refuse(f"clusters.server: Invalid value: {quoted(server)}: must be a URL")
        return ClientConfig(
            server=server.rstrip("/"),
            namespace=str(context.get("namespace") or "default"),
            ca_data=self._text(cluster, "certificate-authority"),
            is_verified=not cluster.get("insecure-skip-tls-verify", False),
            token=str(user.get("token") or ""),
            token_file=self._beside(user["tokenFile"]) if user.get("tokenFile") else None,
            client_certificate=self._file(user, "client-certificate"),
            client_key=self._file(user, "client-key"),
        )

    def _logged_in(self, said: dict[str, Any]) -> dict[str, Any]:
        """Return the user that a plugin tells, as if it stood here."""
        from keda_gpu_scaler.kube.exec_auth import log_in

        credential = log_in(said, self._path.parent)
        parts = {"client-certificate": credential.certificate, "client-key": credential.key}
        coded = {f"{key}-data": base64.b64encode(text.encode()).decode() for key, text in parts.items() if text}
        return {"token": credential.token, **coded}

    def _named(self, many: str, one: str, name: str) -> dict[str, Any]:
        entries = self._config.get(many)
        fitting = [
            entry[one]
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(one), dict)
        ]
        if not fitting:
            self._refuse(f"{many}: Not found: {quoted(name)}")
        found: dict[str, Any] = fitting[0]
        return found

    def _text(self, entry: dict[str, Any], key: str) -> str:
        if f"{key}-data" in entry:
            return self._decoded(entry, key).decode("ascii", "replace")
        return _read(self._beside(entry[key])) if entry.get(key) else ""

    def _file(self, entry: dict[str, Any], key: str) -> Path | None:
        if f"{key}-data" not in entry:
            return self._beside(entry[key]) if entry.get(key) else None
        path = self._scratch / f"{key}.pem"
        path.touch(mode=0o600)
        path.write_bytes(self._decoded(entry, key))
        return path

    def _decoded(self, entry: dict[str, Any], key: str) -> bytes:
        try:
            return base64.b64decode(str(entry[f"{key}-data"]), validate=True)
        except binascii.Error:
            self._refuse(f"{key}-data: Invalid value: must be base64")

    def _beside(self, name: object) -> Path:
        return self._path.parent / str(name)

    def _refuse(self, problem: str) -> Never:
        raise KubeError(f"--kubeconfig: {self._path}: {problem}")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise KubeError(f"cannot read {path}: {why}") from error
