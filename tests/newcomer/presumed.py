# SPDX-License-Identifier: Apache-2.0
"""What the pages presume: files of the reader, the machine, and what may fail there."""

from collections.abc import Mapping

from keda_gpu_scaler.simulate.presets import engine_model, model_json

_ADDRESS = "keda-gpu-scaler.keda.svc.cluster.local:6000"
_SCALED_OBJECT = f"""\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {{name: llama, namespace: ai}}
spec:
  scaleTargetRef: {{name: llama}}
  minReplicaCount: 1
  maxReplicaCount: 8
  triggers:
    - type: external
      metadata: {{scalerAddress: "{_ADDRESS}", profile: llm}}
"""
_LOG = """\
timestamp, index, uuid, name, utilization.gpu [%]
2026/01/01 00:00:00.000, 0, GPU-a, NVIDIA H100, 60 %
2026/01/01 00:00:01.000, 0, GPU-a, NVIDIA H100, 70 %
"""
_REQUESTS = "arrival,prompt_tokens,answer_tokens\n" + "".join(f"{second},800,100\n" for second in range(0, 120, 2))
_CHART = "apiVersion: v2\nname: llama\nversion: 1.0.0\n"

FILES: Mapping[str, Mapping[str, str]] = {
    "docs/guides/checking-manifests.md": {
        "deploy/llama.yaml": _SCALED_OBJECT,
        "Chart.yaml": _CHART,
        "templates/llama.yaml": _SCALED_OBJECT.replace("name: llama", "name: {{ .Release.Name }}"),
    },
    "docs/guides/explaining.md": {"scaledobject.yaml": _SCALED_OBJECT},
    "docs/guides/replaying-logs.md": {"gpus.csv": _LOG},
    # Two hours of requests take half a minute.
    "docs/guides/simulating.md": {
        "scaledobject.yaml": _SCALED_OBJECT,
        "recordings/morning-requests.csv": _REQUESTS,
        "llama-model.json": model_json(engine_model("llama-3.1-8b-a100")),
    },
}
"""Files that the reader has, by page and path."""

_IN_A_POD = {
    "KEDA_GPU_SCALER_BACKEND": "replay:{world}/gpus.csv",
    "KEDA_GPU_SCALER_POD_RESOURCES": "{world}/kubelet.sock",
    "KEDA_GPU_SCALER_KUBECONFIG": "{world}/config",
}
VARIABLES: Mapping[str, Mapping[str, str]] = {"docs/guides/tls.md": _IN_A_POD}
"""The settings of a machine that is no laptop."""

LISTED_LINES: Mapping[str, tuple[str, ...]] = {
    # An endless loop, around a program of AMD; the formats of its logs are tested in tests/devices.
    "docs/guides/replaying-logs.md": ("while date +%s",),
}
"""The beginnings of lines that cannot run here, by page."""

FAILING: Mapping[str, Mapping[str, int]] = {
    # This machine has no AMD GPU.
    "docs/guides/amd-and-intel.md": {"doctor --backend amd": 1, "top --local --once --backend amd": 3},
    # Ctrl-C comes after a second; half an hour would be enough.
    "docs/guides/simulating.md": {"simulate fit llama.jsonl.gz --out llama-model.json": 1},
}
"""The exit status of a command that ends with another one than 0 here, by page and end of the command."""

EXPLAIN_PORT = ("docs/guides/explaining.md",)
"""Pages whose cluster has an explain port."""

SHOWN: Mapping[str, tuple[str, ...]] = {
    "README.md": (r"/keda-gpu-scaler demo --address ",),
    "docs/contributing/debugging.md": (
        r"^80\.0 ",
        r"^decision ",
        r'^  "value": \d',
        r'"state": "observed"',
        r"^keda_gpu_scaler_build_info",
        r"^ok$",
        "<!doctype html>",
    ),
    "docs/guides/explaining.md": (
        r"^ai/llama: \d+(\.\d)? % per replica against 100 → 2 → \d replicas \(limit: ",
        r"^why ",
        r"^pods +POD +NODE +READY +MEASURED +AGE$",
        r"^value +MEASURED +TARGET +REPORTED +TO THE HPA$",
        r"^next +",
        r"^from +pod keda/keda-gpu-scaler-frontend",
        r"^from +pod keda/explains-to-people",
        '^{"at": ',
    ),
    "docs/guides/install.md": (
        r"first sample: 5 device\(s\)",
        r"^ai/triton at ",
        r"^value +270$",
        "^DEMONSTRATION: ",
        "^ai/llama: ",
    ),
    "docs/guides/llm-serving.md": (r"^steps +scope workload: load of Deployment llama", r"pod llama-0: \d"),
    "docs/guides/recording.md": (
        r'^\{"scalerAddress":.*"profile":"llm"',
        r'"target": "Deployment llama"',
        "^sglang:num_running_reqs",
        "^ai/llama: ",
    ),
    "docs/guides/simulating.md": (
        r"IN TIME +TTFT p50 +p95 +p99 +TOKEN p50 +p99 +GPU-HOURS +COST +MOVES +TURNS +AT MAX +QUEUE +MOST$",
        r"ai/llama headroom=1\.15 ",
        r"ai/llama maxReplicaCount=6 ",
        r"static peak \(\d\)",
        "clairvoyant ",
    ),
    "docs/guides/tls.md": (r"DNS:keda-gpu-scaler\.keda\.svc\.cluster\.local", r"tls\.crt: OK", r"^value +270$"),
    "docs/guides/watching.md": (
        r"WORKLOAD +VALUE +TARGET",
        "^ai/triton ",
        r"^POD +GPUS +UTIL",
        '"place": "slurm job 4711.0"',
    ),
    "docs/operating.md": (r"^ok +driver ", r"^ok +api ", "^ai/llama: ", r"^steps +scope workload"),
}
"""What the output of a page has, in lines."""
