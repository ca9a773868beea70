# SPDX-License-Identifier: Apache-2.0
"""Reads address and credentials of the API server from a service account or a kubeconfig.

Law: every file is read at the start, except for the token, which is read for every request because Kubernetes renews
it.
"""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Never
from urllib.parse import quote

from keda_gpu_scaler.core.interfaces import KubeError
from keda_gpu_scaler.core.quoting import quoted
from keda_gpu_scaler.kube.proxy import ProxyError, checked_proxy, proxy_of_environment

_MAX_NAMES = 8
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """An API server and an identity.

    ``server`` is a URL, ``namespace`` the identity's own. ``ca_data`` holds certificates in PEM; where it is empty, the
    system's are used. ``client_certificate`` and ``client_key`` name files in PEM. ``token_file`` names a file with a
    bearer token, where ``token`` is empty. ``server_name`` is the name in the server's certificate, where it is not the
    host of the URL. ``proxy`` is the URL of the proxy that leads to the server, empty where none does.
    ``impersonation`` has the headers that ask the server to act for another user.
    """

    server: str
    namespace: str
    ca_data: str = ""
    is_verified: bool = True
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    server_name: str = ""
    proxy: str = field(default="", repr=False)
    impersonation: tuple[tuple[str, str], ...] = ()

    def authorization(self) -> dict[str, str]:
        """Return the headers that authenticate a request; the token's file is read every time.

        Raises:
            KubeError: the token's file cannot be read.
        """
        token = self.bearer_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def bearer_token(self) -> str:
        """Return the token; empty for an identity without one, such as a client certificate.

        Raises:
            KubeError: the token's file cannot be read.
        """
        return self.token or (_read(self.token_file).strip() if self.token_file else "")


def in_cluster() -> bool:
    """Whether this process runs in a pod that has a service account's token."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (SERVICE_ACCOUNT / "token").exists()


def service_account() -> ClientConfig:
    """Read the pod's own service account.

    Raises:
        KubeError: this process does not run in a pod, or a file cannot be read.
    """
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        problem = "this process does not run in a pod (KUBERNETES_SERVICE_HOST is not set)"
        raise KubeError(f"--kubeconfig: {problem}: name a file")
    return ClientConfig(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=_read(SERVICE_ACCOUNT / "namespace").strip(),
        ca_data=_read(SERVICE_ACCOUNT / "ca.crt"),
        token_file=SERVICE_ACCOUNT / "token",
    )


def kubeconfig(
    path: Path, scratch: Path, *, runs_plugins: bool = False, context: str = "", others: Sequence[Path] = ()
) -> ClientConfig:
    """Read a context of a kubeconfig.

    Args:
        path: the file.
        scratch: a private folder for a client certificate that the kubeconfig itself contains: TLS needs files.
        runs_plugins: whether an exec credential plugin is run. Only commands at a shell run one.
        context: the name of the context; empty for the current one.
        others: the next files of the variable KUBECONFIG. An entry is that of the first file that has one of its name
            (client-go: tools/clientcmd/loader.go).

    Raises:
        KubeError: a file cannot be read, is incomplete, or needs a plugin that must not be run.
    """
    files = {one: _read_yaml(one) for one in (path, *others)}
    return _Kubeconfig(files, scratch, runs_plugins=runs_plugins).client_config(context)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    from keda_gpu_scaler.kube.yaml_loader import PlainLoader

    try:
        config = yaml.load(_read(path), PlainLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise KubeError(f"--kubeconfig: {path} is not YAML: {str(error)[:200]}") from error
    except RecursionError as error:
        raise KubeError(f"--kubeconfig: {path} is nested too deeply: must be a kubeconfig") from error
    return config if isinstance(config, dict) else {}


@dataclass(frozen=True, slots=True)
class _KubeconfigEntry:
    """An entry of a list, for example a cluster, and the folder to which its file names are relative."""

    fields: dict[str, Any]
    folder: Path


class _Kubeconfig:
    """The files of a kubeconfig; its errors name the files and the field."""

    def __init__(self, files: Mapping[Path, dict[str, Any]], scratch: Path, *, runs_plugins: bool) -> None:
        self._files = files
        self._scratch = scratch
        self._runs_plugins = runs_plugins

    def client_config(self, name: str) -> ClientConfig:
        context = self._entry("contexts", "context", name or self._current_context()).fields
        of_cluster = self._entry("clusters", "cluster", _scalar(context.get("cluster")))
        of_user = _KubeconfigEntry({}, of_cluster.folder)
        if context.get("user"):
            of_user = self._entry("users", "user", _scalar(context["user"]))
        impersonation = tuple(self._impersonation(of_user.fields))
        if self._runs_plugins and isinstance(of_user.fields.get("exec"), dict):
            of_user = self._run_plugin(of_user)
        cluster, user = of_cluster.fields, of_user.fields
        for plugin in ("exec", "auth-provider"):
            if plugin in user:
                self._refuse(f"users.{plugin}: Forbidden: plugins are not run: use a token or a client certificate")
        server = _scalar(cluster.get("server"))
        if not server.startswith(("https://", "http://")):
            self._refuse(f"clusters.server: Invalid value: {quoted(server)}: must be a URL")
        proxy, server_name = self._proxy(cluster, server), _scalar(cluster.get("tls-server-name"))
        if server_name and proxy.startswith("http"):
            self._refuse("clusters.tls-server-name: Forbidden: it cannot be used together with an HTTP proxy")
        return ClientConfig(
            server=server.rstrip("/"),
            namespace=_scalar(context.get("namespace")) or "default",
            ca_data=self._text(of_cluster, "certificate-authority"),
            is_verified=not cluster.get("insecure-skip-tls-verify", False),
            token=_scalar(user.get("token")),
            token_file=of_user.folder / _scalar(user["tokenFile"]) if user.get("tokenFile") else None,
            client_certificate=self._file(of_user, "client-certificate"),
            client_key=self._file(of_user, "client-key"),
            server_name=server_name,
            proxy=proxy,
            impersonation=impersonation,
        )

    def _impersonation(self, user: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Yield the headers for the fields with ``as`` (client-go, transport/round_trippers.go)."""
        named = {key: user[key] for key in ("as", "as-uid", "as-groups", "as-user-extra") if user.get(key)}
        if named and not _scalar(named.get("as")):
            self._refuse("users.as: Required value: other fields of impersonation need it")
        groups, extra = named.get("as-groups"), named.get("as-user-extra")
        for header, key in (("Impersonate-User", "as"), ("Impersonate-Uid", "as-uid")):
            if value := _scalar(named.get(key)):
                yield header, self._header(key, value)
        for group in groups if isinstance(groups, list) else ():
            yield "Impersonate-Group", self._header("as-groups", _scalar(group))
        for name, values in extra.items() if isinstance(extra, dict) else ():
            header = f"Impersonate-Extra-{quote(_scalar(name), safe='')}"
            for value in values if isinstance(values, list) else ():
                yield header, self._header("as-user-extra", _scalar(value))

    def _header(self, key: str, value: str) -> str:
        if not (value.isascii() and value.isprintable() and value):
            self._refuse(f"users.{key}: Invalid value: {quoted(value)}: must be printable ASCII")
        return value

    def _proxy(self, cluster: Mapping[str, Any], server: str) -> str:
        field, url = "clusters.proxy-url", _scalar(cluster.get("proxy-url"))
        if not url:
            field, url = proxy_of_environment(server, os.environ)
        try:
            return checked_proxy(url) if url else ""
        except ProxyError as error:
            self._refuse(f"{field}: Invalid value: {error}")

    def _current_context(self) -> str:
        named = (_scalar(config.get("current-context")) for config in self._files.values())
        return next(filter(None, named), "")

    def _run_plugin(self, user: _KubeconfigEntry) -> _KubeconfigEntry:
        """Return a plugin's credential in the form of a kubeconfig's user."""
        from keda_gpu_scaler.kube.exec_auth import log_in

        credential = log_in(user.fields["exec"], user.folder)
        files = {"client-certificate": credential.certificate, "client-key": credential.key}
        encoded = {f"{key}-data": base64.b64encode(text.encode()).decode() for key, text in files.items() if text}
        return _KubeconfigEntry({"token": credential.token, **encoded}, user.folder)

    def _entry(self, field: str, key: str, name: str) -> _KubeconfigEntry:
        """Return the entry of a name in a list, for example a cluster in ``clusters``."""
        lists = [(path.parent, config.get(field)) for path, config in self._files.items()]
        found = [
            _KubeconfigEntry(entry[key], folder)
            for folder, entries in lists
            for entry in (entries if isinstance(entries, list) else ())
            if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(key), dict)
        ]
        if not found:
            self._refuse(f"{field}: Not found: {quoted(name)}: {_names_in(entries for _, entries in lists)}")
        return found[0]

    def _text(self, entry: _KubeconfigEntry, key: str) -> str:
        if f"{key}-data" in entry.fields:
            return self._decoded(entry, key).decode("ascii", "replace")
        return _read(entry.folder / _scalar(entry.fields[key])) if entry.fields.get(key) else ""

    def _file(self, entry: _KubeconfigEntry, key: str) -> Path | None:
        if f"{key}-data" not in entry.fields:
            return entry.folder / _scalar(entry.fields[key]) if entry.fields.get(key) else None
        path = self._scratch / f"{key}.pem"
        path.touch(mode=0o600)
        path.write_bytes(self._decoded(entry, key))
        return path

    def _decoded(self, entry: _KubeconfigEntry, key: str) -> bytes:
        try:
            return base64.b64decode(_scalar(entry.fields[f"{key}-data"]), validate=True)
        except ValueError:  # also for letters that are not ASCII
            self._refuse(f"{key}-data: Invalid value: must be base64")

    def _refuse(self, problem: str) -> Never:
        raise KubeError(f"--kubeconfig: {os.pathsep.join(map(str, self._files))}: {problem}")


def _names_in(lists: Iterable[object]) -> str:
    """Say which names the entries of some lists have; of very many only the first."""
    entries = [entry for entries in lists if isinstance(entries, list) for entry in entries if isinstance(entry, dict)]
    names = list(dict.fromkeys(filter(None, (_scalar(entry.get("name")) for entry in entries))))
    if not names:
        return "there is no entry"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"it must be one of {', '.join(quoted(name) for name in names[:_MAX_NAMES])}{more}"


def _scalar(value: object) -> str:
    """Return a scalar as text, empty where the value is none. Aliases can make a list of a few lines endless."""
    return str(value) if isinstance(value, str | int | float) and value else ""


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise KubeError(f"cannot read {path}: it is not text") from error
    except OSError as error:
        raise KubeError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # a path with a NUL character
        raise KubeError(f"cannot read {str(path)!a}: it is not a path") from error
