{{/* The name of the chart for labels. */}}
{{- define "portforward-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The name of every object. */}}
{{- define "portforward-operator.fullname" -}}
{{- $name := include "portforward-operator.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* The labels for selectors. They never change during the life of a release. */}}
{{- define "portforward-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "portforward-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: agent
{{- end }}

{{/* The labels of every object. */}}
{{- define "portforward-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "portforward-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ include "portforward-operator.texts" . }}
{{- end }}
{{- end }}

{{/* The labels of every object with extra labels. The argument is a list of the root and the extra labels. */}}
{{- define "portforward-operator.labelsAnd" -}}
{{- $texts := fromYaml (include "portforward-operator.texts" (last .)) }}
{{- toYaml (mergeOverwrite (fromYaml (include "portforward-operator.labels" (first .))) $texts) }}
{{- end }}

{{/* A value as text. Helm reads `--set a=1` as a number, and a number in a file as a float. */}}
{{- define "portforward-operator.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}
{{- int64 . }}
{{- else }}
{{- . }}
{{- end }}
{{- end }}

{{/* A map with its values as strings, such as labels, as YAML. */}}
{{- define "portforward-operator.texts" -}}
{{- $texts := dict }}
{{- range $key, $value := . }}
{{- $_ := set $texts $key (include "portforward-operator.text" $value) }}
{{- end }}
{{- toYaml $texts }}
{{- end }}

{{/* The ServiceAccount of the agents. */}}
{{- define "portforward-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "portforward-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.create is false: set serviceAccount.name to the ServiceAccount of the agents" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The image, by its digest if one is set. */}}
{{- define "portforward-operator.image" -}}
{{- $name := printf "%s/%s" .Values.image.registry .Values.image.repository | trimPrefix "/" }}
{{- with .Values.image.digest }}
{{- printf "%s@%s" $name . }}
{{- else }}
{{- $tag := include "portforward-operator.text" .Values.image.tag }}
{{- printf "%s:%s" $name (default .Chart.AppVersion $tag) }}
{{- end }}
{{- end }}

{{/* The log filter. For a plain level, lines of the Kubernetes client are switched off: the agent itself logs each outage once. */}}
{{- define "portforward-operator.log" -}}
{{- if has .Values.agent.logLevel (list "error" "warn" "info") }}
{{- printf "%s,kube_client=off,kube_runtime=off" .Values.agent.logLevel }}
{{- else }}
{{- .Values.agent.logLevel }}
{{- end }}
{{- end }}

{{/* The Secret with the certificate for metrics, if one is used. */}}
{{- define "portforward-operator.metricsSecret" -}}
{{- if .Values.metrics.secure.enabled }}{{ .Values.metrics.secure.secretName }}{{ end }}
{{- end }}

{{/* The environment variables that the chart sets, as YAML. A setting is an environment variable and not an argument if the
program accepts both, because an overlay can change a variable by its name. */}}
{{- define "portforward-operator.env" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: spec.nodeName
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.namespace
- name: HOST_IP
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: status.hostIP
- name: PORTFORWARD_BACKEND
  value: {{ .Values.agent.backend }}
- name: PORTFORWARD_NFTABLES_TABLE
  value: {{ .Values.agent.nftablesTable }}
- name: PORTFORWARD_IPTABLES
  value: {{ .Values.agent.iptables }}
{{- if not (kindIs "invalid" .Values.agent.connmark) }}
- name: PORTFORWARD_CONNMARK
  value: {{ include "portforward-operator.text" .Values.agent.connmark | quote }}
{{- end }}
- name: PORTFORWARD_STATE_DIR
  value: {{ .Values.agent.stateDir }}
- name: PORTFORWARD_METRICS_ADDRESS
  value: {{ ternary "$(HOST_IP)" "127.0.0.1" (eq .Values.metrics.listen "NodeIP") }}:{{ .Values.metrics.port }}
{{- if .Values.metrics.secure.enabled }}
- name: PORTFORWARD_METRICS_SECURE
  value: "true"
{{- if include "portforward-operator.metricsSecret" . }}
- name: PORTFORWARD_METRICS_CERTIFICATE
  value: /etc/portforward-operator/metrics/tls.crt
- name: PORTFORWARD_METRICS_KEY
  value: /etc/portforward-operator/metrics/tls.key
{{- end }}
{{- end }}
- name: PORTFORWARD_FORWARD_METRICS
  value: {{ .Values.agent.forwardMetrics.detail }}
- name: PORTFORWARD_FORWARD_METRICS_LIMIT
  value: {{ .Values.agent.forwardMetrics.limit | int | quote }}
- name: PORTFORWARD_LOG_FORMAT
  value: {{ .Values.agent.logFormat }}
- name: PORTFORWARD_LOG
  value: {{ include "portforward-operator.log" . }}
{{- end }}

{{/* The settings of a monitor for an HTTPS endpoint. */}}
{{- define "portforward-operator.https" -}}
{{- with .Values.metrics.secure }}
{{- if .enabled }}
scheme: https
{{- if .authorization }}
authorization:
  {{- toYaml .authorization | nindent 2 }}
{{- else }}
bearerTokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
{{- end }}
tlsConfig:
  {{- toYaml .tlsConfig | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* The scrape settings of a monitor (the argument). Each series gets the label node, which the alerts use. honorLabels: the
label namespace of a series about a forward is the namespace of the forward, not that of the agents. */}}
{{- define "portforward-operator.scrape" -}}
honorLabels: true
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
relabelings:
- sourceLabels: [__meta_kubernetes_pod_node_name]
  targetLabel: node
{{- with .relabelings }}
{{ toYaml . }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The security context of a container that writes rules, as YAML. The argument has the values and the variant of iptables.
iptables needs uid 0. Only the network capabilities are added; the legacy variant needs a raw socket. */}}
{{- define "portforward-operator.containerSecurityContext" -}}
{{- $add := list "NET_ADMIN" }}
{{- if ne .iptables "nft" }}
{{- $add = append $add "NET_RAW" }}
{{- end }}
{{- $own := dict "runAsUser" 0 "runAsGroup" 0 "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true }}
{{- $_ := set $own "capabilities" (dict "drop" (list "ALL") "add" $add) }}
{{- toYaml (mergeOverwrite $own (deepCopy (default dict .values.containerSecurityContext))) }}
{{- end }}

{{/* The security context of the agents' pods, as YAML. */}}
{{- define "portforward-operator.podSecurityContext" -}}
{{- $own := dict "seccompProfile" (dict "type" "RuntimeDefault") }}
{{- toYaml (mergeOverwrite $own (deepCopy (default dict .Values.podSecurityContext))) }}
{{- end }}

{{/* On which nodes the pods run, and the secrets for their image, as YAML. */}}
{{- define "portforward-operator.placement" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ include "portforward-operator.text" .name | quote }}
{{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- include "portforward-operator.texts" . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
{{- range . }}
{{- $toleration := deepCopy . }}
{{- if hasKey . "value" }}
{{- $_ := set $toleration "value" (include "portforward-operator.text" .value) }}
{{- end }}
{{ toYaml (list $toleration) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The hostPath volumes for the record and the lock of iptables, as YAML. Their mounts are below. */}}
{{- define "portforward-operator.nodeVolumes" -}}
# The record of what was last applied. It must survive a restart of the pod and of the node.
- name: state
  hostPath:
    path: {{ .Values.agent.stateDir }}
    type: DirectoryOrCreate
# The lock that all programs of the node use when they write rules with iptables-legacy.
- name: xtables-lock
  hostPath:
    path: /run/xtables.lock
    type: FileOrCreate
{{- end }}

{{- define "portforward-operator.nodeVolumeMounts" -}}
- name: state
  mountPath: {{ .Values.agent.stateDir }}
- name: xtables-lock
  mountPath: /run/xtables.lock
{{- end }}
