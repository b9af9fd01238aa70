{{- define "gema.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "gema.fullname" -}}
{{- $name := include "gema.name" . }}
{{- $full := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- default $full .Values.fullnameOverride | trunc 55 | trimSuffix "-" }}
{{- end }}

{{- define "gema.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gema.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gema.labels" -}}
{{ include "gema.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "gema.serviceAccountName" -}}
{{- default (.Values.serviceAccount.create | ternary (include "gema.fullname" .) "default") .Values.serviceAccount.name }}
{{- end }}

{{- /* The Secret with the variables; empty if there is none. */ -}}
{{- define "gema.secretName" -}}
{{- default (.Values.secrets | empty | ternary "" (include "gema.fullname" .)) .Values.existingSecret }}
{{- end }}

{{- /* Whether pods meet in Redis or NATS: a text, or none. */ -}}
{{- define "gema.meets" -}}
{{- $by_variable := false }}
{{- range .Values.app.extraEnv }}
{{- if has .name (list "SOKETI_ADAPTER_DRIVER" "GEMA_CLUSTER_DRIVER") }}{{ $by_variable = true }}{{ end }}
{{- end }}
{{- if or $by_variable (has (dig "cluster" "driver" "" .Values.config) (list "redis" "nats")) }}yes{{ end }}
{{- end }}

{{- /* Ends the installation with a sentence where pods would start, but not do what they are for. */ -}}
{{- define "gema.check" -}}
{{- if not (or (include "gema.secretName" .) .Values.config.apps .Values.config.app_store .Values.app.extraEnv) }}
{{- fail "there is no app: set secrets.PUSHER_APP_ID, secrets.PUSHER_APP_KEY and secrets.PUSHER_APP_SECRET, or existingSecret" }}
{{- end }}
{{- if and (or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1)) (not (include "gema.meets" .)) }}
{{- fail "several pods need Redis or NATS: set config.cluster.driver to redis and config.redis.host to its host, or to nats and config.nats.servers to its servers" }}
{{- end }}
{{- $drain := dig "server" "drain_seconds" 3 .Values.config }}
{{- if le (float64 .Values.terminationGracePeriodSeconds) (float64 $drain) }}
{{- fail "terminationGracePeriodSeconds must be more than config.server.drain_seconds" }}
{{- end }}
{{- end }}
