# SPDX-License-Identifier: Apache-2.0
"""Renders deploy/manifests.yaml and the golden files of the chart: ``python scripts/chart.py``.

The law of this script: what is committed is what helm makes of the chart, and the tests say when it is stale.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts import tools

HOME = tools.HOME
CHART = HOME / "deploy" / "helm" / "keda-gpu-scaler"
GOLDEN = HOME / "tests" / "golden" / "chart"
MANIFESTS = HOME / "deploy" / "manifests.yaml"
KUBERNETES = "1.34.0"

ONE_NODE = ("--set", "frontend.enabled=false")
SCRAPED = ("--set-json", 'networkPolicy.scrapers=[{"namespaceSelector":{"matchLabels":{"team":"observers"}}}]')
CERTIFICATE = (
    *("--set", "tls.enabled=true", "--set", "tls.certManager.enabled=true"),
    *("--set", "tls.certManager.issuerRef.name=keda-gpu-scaler-ca"),
)
EXTRAS = (
    *("--set-json", 'rbac.scaleTargets=[{"group":"argoproj.io","resource":"rollouts"}]'),
    *("--set-json", 'rbac.owners=[{"group":"ray.io","resource":"rayclusters"}]'),
    *("--set", "rbac.namespaces={ai,ml}", "--set", "rbac.nodes=false", "--set", "commonLabels.team=serving"),
    *("--set", "commonAnnotations.note=a", "--set", "podLabels.a=b", "--set", "podAnnotations.c=d"),
    *("--set", "extraArgs={--sample-interval=2}", "--set", "imagePullSecrets[0].name=registry"),
    *("--set-json", 'extraEnv=[{"name":"A","value":"b"}]', "--set-json", 'extraVolumes=[{"name":"v","emptyDir":{}}]'),
    *("--set-json", 'extraVolumeMounts=[{"name":"v","mountPath":"/v"}]'),
)
ENGINES = (
    *("--set-json", "engines.scrapeInterval=1", "--set-json", "engines.demandInterval=0.25"),
    *("--set-json", 'engines.allowEndpoints=["10.0.0.0/8","*.ai.svc.cluster.local"]'),
    *("--set-json", 'engines.credentials=[{"name":"gateway","secretName":"gateway-token"}]'),
)
EXPECTED = (
    *("--set", "global.imageRegistry=registry.example.com:5000", "--set", "nameOverride=gpu-scaler"),
    *("--set", "fullnameOverride=keda-gpu-scaler", "--set", "service.type=NodePort", "--set", "revisionHistoryLimit=3"),
    *("--set", "frontend.dnsPolicy=Default", "--set", "livenessProbe.periodSeconds=20"),
    *("--set-json", 'extraContainers=[{"name":"a","image":"b"}]'),
    *("--set", "serviceMonitor.enabled=true", "--set", "prometheusRule.enabled=true"),
    *("--set-json", 'serviceMonitor.relabelings=[{"action":"labeldrop","regex":"pod"}]'),
)
"""What charts usually have."""
OVERRIDDEN = (
    *("--set", "hostNetwork=true", "--set", "podSecurityContext.seLinuxOptions.type=spc_t"),
    *("--set", "securityContext.runAsUser=0", "--set", "frontend.securityContext.runAsUser=1000"),
    *("--set", "frontend.podSecurityContext.fsGroup=1000"),
    *("--set-json", 'frontend.initContainers=[{"name":"a","image":"b"}]'),
    *("--set", "serviceAccount.create=false", "--set", "serviceAccount.name=mine"),
)
"""What changes the rights of the pods."""
EXPLAIN = ("--set", "explain.enabled=true", "--set", "tls.kedaNames={keda}")
ADMISSION = (
    *("--set", "admissionPolicy.enabled=true", "--set", "admissionPolicy.validationActions={Deny,Audit}"),
    *("--set", "admissionPolicy.namespaceSelector.matchLabels.team=ml"),
)
VENDORS = (
    "--set-json",
    'additionalAgents=[{"name":"amd","driver":{"mode":"amd"}},{"name":"intel","driver":{"mode":"intel"}}]',
)

GOLDENS: Mapping[str, Sequence[str]] = {
    "default": (),
    "one-node": ONE_NODE,
    "mutual-tls-and-monitoring": (*CERTIFICATE, *SCRAPED, "--set", "podMonitor.enabled=true"),
    "mig": ("--set", "driver.mode=cdi", "--set", "driver.mig=true"),
    "measured-shares": (*VENDORS, "--set", "measureShares=true"),
    "gke": ("--set", "driver.mode=gke"),
    "vendors": VENDORS,
    "intel-with-memory": (
        *("--set", "driver.mode=intel", "--set", "driver.intel.perfmon=true"),
        *("--set", "driver.intel.monitoringResource=gpu.intel.com/xe_monitoring"),
    ),
    "extras": EXTRAS,
    "engines": ENGINES,
    "expected": EXPECTED,
    "overridden": OVERRIDDEN,
    "explain": (*CERTIFICATE, *EXPLAIN),
    "admission-policy": ADMISSION,
}
"""Renderings that are kept, each a file below tests/golden/chart."""

_HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# The quick start without Helm: kubectl apply -f deploy/manifests.yaml, where KEDA runs in the namespace keda.
# Rendered from deploy/helm/keda-gpu-scaler by `make manifests`: change the chart instead.

"""
_HELMS_OWN = re.compile(r"^ +(?:helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n|^# Source: .*\n", re.MULTILINE)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the pinned helm."""
    command, environment = [str(tools.BIN / "helm"), *arguments], {**os.environ, **tools.SHORT_RUN}
    return subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True, check=False)


def template(*flags: str, namespace: str = "keda", release: str = "keda-gpu-scaler") -> str:
    """Render the chart.

    Raises:
        ValueError: with what helm says.
    """
    made = helm("template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBERNETES, *flags)
    if made.returncode != 0:
        raise ValueError(made.stderr)
    return made.stdout


def manifests() -> str:
    """Render what ``kubectl apply`` takes: no test pod, and no word of Helm."""
    return _HEADER + _HELMS_OWN.sub("", template("--skip-tests")).removeprefix("---\n")


def rendered() -> dict[Path, str]:
    """Render every committed file."""
    goldens = {GOLDEN / f"{name}.yaml": template(*flags) for name, flags in GOLDENS.items()}
    return {MANIFESTS: manifests(), **goldens}


if __name__ == "__main__":
    for path, text in rendered().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
