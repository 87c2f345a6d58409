{{/* How this release's objects begin. */}}
{{- define "goldleaf.name" -}}
{{- if contains "goldleaf" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-goldleaf" (.Release.Name | trunc 31 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "goldleaf.labels" -}}
app.kubernetes.io/name: goldleaf
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What selects a part's pods: a list of the root and the part. */}}
{{- define "goldleaf.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: goldleaf
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "goldleaf.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end -}}

{{/* The head of a pod's template: a list of the root and the part. */}}
{{- define "goldleaf.podMetadata" -}}
{{- $root := index . 0 -}}
labels:
  {{- include "goldleaf.selector" . | nindent 2 }}
  {{- with $root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What all pods have: the one node, and the host's loopback. */}}
{{- define "goldleaf.podSpec" -}}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
nodeSelector:
  kubernetes.io/os: linux
# By the node's own name: the label kubernetes.io/hostname may be another.
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchFields:
            - key: metadata.name
              operator: In
              values:
                - {{ required "say which node has the pools: --set node=NAME" .Values.node | quote }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Of containers that need nothing of the host's. */}}
{{- define "goldleaf.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: {{ .Values.podSecurity.seccompProfile }}}
{{- end -}}

{{/* Environment of Goldleaf's own programs. */}}
{{- define "goldleaf.logEnv" -}}
- {name: GOLDLEAF_LOG, value: {{ .Values.log.format }}}
- {name: RUST_LOG, value: {{ .Values.log.level | quote }}}
{{- end -}}
