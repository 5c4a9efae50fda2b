{{- define "nvshare.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{- /* Start of the names of all objects: at most 45 characters, so that each whole name, and what Kubernetes adds to it, is a label. */ -}}
{{- define "nvshare.fullname" -}}
{{- $name := include "nvshare.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 45 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "nvshare.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{- /* What a selector looks for. It can never change, so it has no version and no label of the user's.
Call as (list . "component"), as all those below that take a component. */ -}}
{{- define "nvshare.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "nvshare.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "nvshare.labels" -}}
{{- $root := index . 0 -}}
{{ include "nvshare.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: nvshare
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Name, namespace and labels of one component's object. */ -}}
{{- define "nvshare.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "nvshare.fullname" $root }}-{{ index . 1 }}
namespace: {{ include "nvshare.namespace" $root }}
labels:
  {{- include "nvshare.labels" . | nindent 2 }}
{{- end -}}

{{- /* Labels and annotations of a component's pods: without versions, so that an upgrade of the chart alone starts no pod again.
Call as (list . "component" .Values.component). */ -}}
{{- define "nvshare.podMetadata" -}}
{{- $values := index . 2 -}}
labels:
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "nvshare.selectorLabels" (list (index . 0) (index . 1)) | nindent 2 }}
{{- with $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Call as (list . .Values.component.image). */ -}}
{{- define "nvshare.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
image: {{ list $root.Values.image.registry (printf "%s:%s" $image.repository ($image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion)) | compact | join "/" | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- end -}}

{{- define "nvshare.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Where a component's pods go. Call with a map of priorityClassName, nodeSelector, tolerations and affinity. */ -}}
{{- define "nvshare.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Environment variables by name; what is empty is left to the service. Call with a map. */ -}}
{{- define "nvshare.environment" -}}
{{- range $name, $value := . }}
{{- if not (eq (toString $value) "") }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "nvshare.serviceAccountName" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
{{- if $values.serviceAccount.create -}}
{{- $values.serviceAccount.name | default (printf "%s-%s" (include "nvshare.fullname" $root) (index . 1)) -}}
{{- else -}}
{{- $values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- /* A container that needs nothing of the host and no rights. */ -}}
{{- define "nvshare.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}
