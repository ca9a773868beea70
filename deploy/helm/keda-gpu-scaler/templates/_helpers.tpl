{{- /* SPDX-License-Identifier: Apache-2.0 */ -}}

{{- define "kgs.name" -}}
{{- .Values.nameOverride | default "keda-gpu-scaler" -}}
{{- end -}}

{{- define "kgs.fullname" -}}
{{- .Values.fullnameOverride | default (include "kgs.name" .) -}}
{{- end -}}

{{- define "kgs.agents" -}}
{{- include "kgs.fullname" . }}-agents
{{- end -}}

{{- define "kgs.frontend" -}}
{{- include "kgs.fullname" . }}-frontend
{{- end -}}

{{- /* The host in scalerAddress. */ -}}
{{- define "kgs.host" -}}
{{- printf "%s.%s.svc.%s" (include "kgs.fullname" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{- /* Names of cluster-wide objects: two namespaces may have an installation each. */ -}}
{{- define "kgs.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "kgs.fullname" .) -}}
{{- end -}}

{{- /* The repository. The first part of a name is a registry if it has a dot or a port. */ -}}
{{- define "kgs.repository" -}}
{{- with (.Values.global | default dict).imageRegistry -}}
{{- printf "%s/%s" . (regexReplaceAll "^[^/]*[.:][^/]*/" $.Values.image.repository "") -}}
{{- else -}}
{{- .Values.image.repository -}}
{{- end -}}
{{- end -}}

{{- define "kgs.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" (include "kgs.repository" .) .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" (include "kgs.repository" .) (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* The names of Secrets with the registry's login, for each pod. */ -}}
{{- define "kgs.pullSecrets" -}}
{{- concat .Values.imagePullSecrets ((.Values.global | default dict).imagePullSecrets | default list) | toYaml -}}
{{- end -}}

{{- /* The account of the instances that KEDA calls, and that of agents behind a front end. */ -}}
{{- define "kgs.account" -}}
{{- .Values.serviceAccount.name | default (ternary (include "kgs.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "kgs.agentAccount" -}}
{{- if and .Values.frontend.enabled .Values.serviceAccount.create -}}
{{- include "kgs.agents" . -}}
{{- else -}}
{{- include "kgs.account" . -}}
{{- end -}}
{{- end -}}

{{- /* A map with more fields, which replace its own; takes (dict "own" TEXT "more" MAP). */ -}}
{{- define "kgs.overlaid" -}}
{{- if .more -}}
{{- mergeOverwrite (fromYaml .own) (deepCopy .more) | toYaml -}}
{{- else -}}
{{- .own -}}
{{- end -}}
{{- end -}}

{{- /* The labels of selectors; takes (dict "root" $ "component" "agent"). Never changes between versions. With "agents"
it selects the agents of one DaemonSet. */ -}}
{{- define "kgs.selector" -}}
app.kubernetes.io/name: {{ include "kgs.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .agents }}
keda-gpu-scaler/agents: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "kgs.labels" -}}
{{ include "kgs.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: keda-gpu-scaler
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | quote }}
{{- with merge (dict) (.labels | default dict) (.root.Values.commonLabels | default dict) }}
{{ include "kgs.strings" . }}
{{- end }}
{{- end -}}

{{- /* A map as strings: --set makes a boolean of true, and Kubernetes refuses booleans in labels. */ -}}
{{- define "kgs.strings" -}}
{{- $lines := list -}}
{{- range $key, $value := . -}}
{{- $lines = append $lines (printf "%s: %s" ($key | quote) (include "kgs.string" $value)) -}}
{{- end -}}
{{- join "\n" $lines -}}
{{- end -}}

{{- /* --set makes 1 an int64 and a file a float64, which would be written as 1e+06 from a million on. */ -}}
{{- define "kgs.string" -}}
{{- if and (kindIs "float64" .) (eq (float64 (int64 .)) .) -}}
{{- int64 . | toString | quote -}}
{{- else -}}
{{- toString . | quote -}}
{{- end -}}
{{- end -}}

{{- /* metadata of an object; takes (dict "root" $ "name" … "component" … "annotations" … "cluster" true). */ -}}
{{- define "kgs.metadata" -}}
name: {{ .name }}
{{- if not .cluster }}
namespace: {{ .namespace | default .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "kgs.labels" . | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- include "kgs.strings" . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* metadata of a pod; takes (dict "root" $ "component" … "labels" … "annotations" …). */ -}}
{{- define "kgs.podMetadata" -}}
labels:
  {{- include "kgs.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/part-of: keda-gpu-scaler
  {{- with merge (dict) (.labels | default dict) (.root.Values.commonLabels | default dict) }}
  {{- include "kgs.strings" . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) (.root.Values.commonAnnotations | default dict) }}
annotations:
  {{- include "kgs.strings" . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kgs.tlsSecret" -}}
{{- if .Values.tls.secretName -}}
{{- .Values.tls.secretName -}}
{{- else if .Values.tls.certManager.enabled -}}
{{- include "kgs.fullname" . }}-tls
{{- else -}}
{{- fail "\n\ntls.secretName: Required value: tls.enabled needs a Secret with tls.crt, tls.key and ca.crt, or tls.certManager.enabled" -}}
{{- end -}}
{{- end -}}

{{- define "kgs.tlsPath" -}}
/etc/keda-gpu-scaler/tls
{{- end -}}

{{- /* The flags of every instance. */ -}}
{{- define "kgs.args" -}}
- --log-level={{ .Values.logLevel }}
{{- if .Values.tls.enabled }}
{{- $path := include "kgs.tlsPath" . }}
- --tls-cert={{ $path }}/tls.crt
- --tls-key={{ $path }}/tls.key
- --tls-ca={{ $path }}/{{ .Values.tls.ca }}
{{- with .Values.tls.clientCA }}
- --tls-client-ca={{ $path }}/{{ . }}
{{- end }}
{{- $peer := .Values.tls.peerName | default (include "kgs.host" .) }}
- --tls-peer-name={{ $peer }}
{{- if .Values.tls.clientCA }}
{{- with .Values.tls.kedaNames }}
- {{ printf "--tls-keda-names=%s" (append . $peer | join ",") | quote }}
{{- end }}
{{- with .Values.tls.watchNames }}
- {{ printf "--tls-watch-names=%s" (join "," .) | quote }}
{{- end }}
{{- with .Values.tls.explainNames }}
- {{ printf "--tls-explain-names=%s" (join "," .) | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "kgs.tlsVolume" -}}
- name: tls
  secret:
    secretName: {{ include "kgs.tlsSecret" . }}
    defaultMode: 0440
{{- end -}}

{{- define "kgs.tlsMount" -}}
# The directory, no subPath: a renewed certificate appears in it.
- name: tls
  mountPath: {{ include "kgs.tlsPath" . }}
  readOnly: true
{{- end -}}

{{- define "kgs.endpointsPath" -}}
/etc/keda-gpu-scaler/endpoints
{{- end -}}

{{- /* Flags of the instances that KEDA calls: of what they scrape, of deletion costs and of explanations. Defaults are left
out. */ -}}
{{- define "kgs.enginesArgs" -}}
{{- if .Values.explain.enabled }}
- --explain-port=6001
{{- end }}
{{- if ne .Values.deletionCost "none" }}
- --deletion-cost={{ .Values.deletionCost }}
{{- end }}
{{- with .Values.engines }}
{{- if ne (float64 .scrapeInterval) 2.0 }}
- --scrape-interval={{ .scrapeInterval }}
{{- end }}
{{- if ne (float64 .scrapeTimeout) 5.0 }}
- --scrape-timeout={{ .scrapeTimeout }}
{{- end }}
{{- if ne (float64 .demandInterval) 0.5 }}
- --demand-interval={{ .demandInterval }}
{{- end }}
{{- with .allowEndpoints }}
- {{ printf "--allow-endpoints=%s" (join "," .) | quote }}
{{- end }}
{{- if .credentials }}
- --endpoint-credentials={{ include "kgs.endpointsPath" $ }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "kgs.enginesVolumes" -}}
{{- $names := list -}}
{{- range .Values.engines.credentials }}
{{- if has .name $names -}}
{{- fail (printf "\n\nengines.credentials: Duplicate value: %q: each needs a name of its own, which its directory bears" .name) -}}
{{- end -}}
{{- $names = append $names .name }}
- name: endpoint-{{ .name }}
  secret:
    secretName: {{ .secretName }}
    defaultMode: 0440
{{- end }}
{{- end -}}

{{- define "kgs.enginesMounts" -}}
{{- range .Values.engines.credentials }}
# The directory, no subPath: a renewed token appears in it.
- name: endpoint-{{ .name }}
  mountPath: {{ include "kgs.endpointsPath" $ }}/{{ .name }}
  readOnly: true
{{- end }}
{{- end -}}

{{- /* Takes whether the pod uses the network of its node. */ -}}
{{- define "kgs.ports" -}}
{{- range $name, $port := dict "grpc" 6000 "metrics" 9090 "probes" 8081 }}
- name: {{ $name }}
  containerPort: {{ $port }}
  {{- if $.hostNetwork }}
  hostPort: {{ $port }}
  {{- end }}
  protocol: TCP
{{- end }}
{{- end -}}

{{- /* The port for people, of the instances that KEDA calls. It listens on the loopback interface. */ -}}
{{- define "kgs.explainPort" -}}
{{- if .Values.explain.enabled }}
- name: explain
  containerPort: 6001
  protocol: TCP
{{- end }}
{{- end -}}

{{- /* /livez: the loop runs. /readyz: there is a snapshot, or the backend has no devices by design. Takes the values of
the component. */ -}}
{{- define "kgs.probes" -}}
{{- $startup := "httpGet: {path: /livez, port: probes}\nperiodSeconds: 2\nfailureThreshold: 30" -}}
{{- $liveness := "httpGet: {path: /livez, port: probes}\nperiodSeconds: 10\ntimeoutSeconds: 3\nfailureThreshold: 3" -}}
{{- $readiness := "httpGet: {path: /readyz, port: probes}\nperiodSeconds: 5\ntimeoutSeconds: 3\nfailureThreshold: 2" -}}
startupProbe:
  {{- include "kgs.overlaid" (dict "own" $startup "more" .startupProbe) | nindent 2 }}
livenessProbe:
  {{- include "kgs.overlaid" (dict "own" $liveness "more" .livenessProbe) | nindent 2 }}
readinessProbe:
  {{- include "kgs.overlaid" (dict "own" $readiness "more" .readinessProbe) | nindent 2 }}
{{- end -}}

{{- /* The security context of a container that needs nothing from its node. */ -}}
{{- define "kgs.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "kgs.unprivilegedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* The component that KEDA calls. */ -}}
{{- define "kgs.asked" -}}
{{- ternary "frontend" "agent" .Values.frontend.enabled -}}
{{- end -}}

{{- /* The vendors of driver.mode and driver.also as --backend, in that order. */ -}}
{{- define "kgs.backend" -}}
{{- $own := ternary .Values.driver.mode "nvml" (has .Values.driver.mode (list "amd" "intel")) -}}
{{- prepend .Values.driver.also $own | uniq | join "," -}}
{{- end -}}

{{- /* Whether agents measure shares. Only NVIDIA's driver returns what processes use. */ -}}
{{- define "kgs.measuresShares" -}}
{{- if and .Values.measureShares (has "nvml" (splitList "," (include "kgs.backend" .))) -}}true{{- end -}}
{{- end -}}

{{- define "kgs.usesNvidiaRuntime" -}}
{{- if has .Values.driver.mode (list "runtimeClass" "cdi") -}}true{{- end -}}
{{- end -}}

{{- /* The node selector: the value, or the label that the vendor's own operator sets. GKE has an affinity instead. */ -}}
{{- define "kgs.agentNodeSelector" -}}
{{- if .Values.nodeSelector -}}
{{- include "kgs.strings" .Values.nodeSelector -}}
{{- else if eq .Values.driver.mode "amd" -}}
feature.node.kubernetes.io/amd-gpu: "true"
{{- else if eq .Values.driver.mode "intel" -}}
intel.feature.node.kubernetes.io/gpu: "true"
{{- else if ne .Values.driver.mode "gke" -}}
nvidia.com/gpu.present: "true"
{{- end -}}
{{- end -}}

{{- /* The affinity as a map. A node has one agent: its snapshots have the name of the node, and two agents with different
vendors would replace each other's. So the agents of several DaemonSets refuse to share a node. */ -}}
{{- define "kgs.agentAffinity" -}}
{{- $affinity := deepCopy (.Values.affinity | default dict) -}}
{{- if and (not $affinity) (eq .Values.driver.mode "gke") (not .Values.nodeSelector) -}}
{{- $onGpus := dict "matchExpressions" (list (dict "key" "cloud.google.com/gke-accelerator" "operator" "Exists")) -}}
{{- $nodes := dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" (list $onGpus)) -}}
{{- $_ := set $affinity "nodeAffinity" $nodes -}}
{{- end -}}
{{- if and .Values.additionalAgents (not (hasKey $affinity "podAntiAffinity")) -}}
{{- $labels := include "kgs.selector" (dict "root" $ "component" "agent") | fromYaml -}}
{{- $others := list (dict "key" "keda-gpu-scaler/agents" "operator" "NotIn" "values" (list .agents)) -}}
{{- $selector := dict "matchLabels" $labels "matchExpressions" $others -}}
{{- $term := dict "labelSelector" $selector "topologyKey" "kubernetes.io/hostname" -}}
{{- $_ := set $affinity "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- end -}}
{{- with $affinity }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- /* The tolerations: the value, or those of the taints by the names of the vendors' resources. */ -}}
{{- define "kgs.agentTolerations" -}}
{{- if .Values.tolerations -}}
{{- toYaml .Values.tolerations -}}
{{- else -}}
{{- $taints := dict "nvml" (list "nvidia.com/gpu") "amd" (list "amd.com/gpu") "intel" (list "gpu.intel.com/i915" "gpu.intel.com/xe") -}}
{{- range splitList "," (include "kgs.backend" .) -}}
{{- range get $taints . }}
- key: {{ . }}
  operator: Exists
  effect: NoSchedule
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The capabilities beside none, as a list. */ -}}
{{- define "kgs.agentCapabilities" -}}
{{- $added := list -}}
{{- if .Values.driver.mig -}}
{{- $added = append $added "SYS_ADMIN" -}}
{{- end -}}
{{- if .Values.driver.intel.perfmon -}}
{{- if not (has "intel" (splitList "," (include "kgs.backend" .))) -}}
{{- fail "\n\ndriver.intel.perfmon: Invalid value: true: needs driver.mode intel, or intel in driver.also" -}}
{{- end -}}
{{- if not (or .Values.driver.intel.monitoringResource .Values.driver.privileged) -}}
{{- fail "\n\ndriver.intel.monitoringResource: Required value: with driver.intel.perfmon, the resource of Intel's device plugin that gives access to /dev/dri, for example gpu.intel.com/xe_monitoring; or driver.privileged=true" -}}
{{- end -}}
{{- $added = append $added "PERFMON" -}}
{{- end -}}
{{- join ", " $added -}}
{{- end -}}

{{- /* The container's resources, with the one that gives access to Intel's devices. */ -}}
{{- define "kgs.agentResources" -}}
{{- $resources := deepCopy (.Values.resources | default dict) -}}
{{- with .Values.driver.intel.monitoringResource -}}
{{- $_ := set $resources "limits" (merge (dict . 1) ($resources.limits | default dict)) -}}
{{- end -}}
{{- with $resources }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{- define "kgs.usesHostDriver" -}}
{{- if has .Values.driver.mode (list "gke" "hostPath") -}}true{{- end -}}
{{- end -}}

{{- define "kgs.isPrivileged" -}}
{{- if kindIs "bool" .Values.driver.privileged -}}
{{- if .Values.driver.privileged -}}true{{- end -}}
{{- else -}}
{{- include "kgs.usesHostDriver" . -}}
{{- end -}}
{{- end -}}

{{- define "kgs.agentPodSecurity" -}}
# The kubelet's socket belongs to root. All other rights of root are dropped.
runAsUser: 0
runAsGroup: 0
{{- if not (include "kgs.isPrivileged" .) }}
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- end -}}

{{- define "kgs.agentSecurity" -}}
{{- if include "kgs.isPrivileged" . -}}
# No runtime assigns the devices to this container: see driver.privileged.
privileged: true
readOnlyRootFilesystem: true
{{- else -}}
{{- include "kgs.restricted" . }}
{{- with include "kgs.agentCapabilities" . }}
  # SYS_ADMIN: NVIDIA's driver requires it to monitor MIG slices. PERFMON: Intel's drivers require it to report
  # the memory in use.
  add: [{{ . }}]
{{- end }}
{{- end }}
{{- end -}}

{{- define "kgs.driverDirectory" -}}
{{- if eq .Values.driver.mode "gke" -}}
/home/kubernetes/bin/nvidia
{{- else -}}
{{- required "\n\ndriver.hostPath.directory: Required value: with driver.mode hostPath, the node's directory that holds the driver's library" .Values.driver.hostPath.directory -}}
{{- end -}}
{{- end -}}

{{- define "kgs.driverLibrary" -}}
{{- if eq .Values.driver.mode "gke" -}}
lib64/libnvidia-ml.so.1
{{- else -}}
{{- required "\n\ndriver.hostPath.library: Required value: with driver.mode hostPath, the library's path within driver.hostPath.directory, for example libnvidia-ml.so.1" .Values.driver.hostPath.library -}}
{{- end -}}
{{- end -}}
