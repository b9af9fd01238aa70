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

{{- /* Ends the installation with a sentence where pods would start, but not do what they are for. */ -}}
{{- define "gema.check" -}}
{{- $variables := list }}
{{- range .Values.app.extraEnv }}{{ $variables = append $variables .name }}{{ end }}
{{- $apps := or (include "gema.secretName" .) .Values.config.apps .Values.config.app_store $variables }}
{{- if not $apps }}
{{- fail "there is no app: set secrets.PUSHER_APP_ID, secrets.PUSHER_APP_KEY and secrets.PUSHER_APP_SECRET, or existingSecret" }}
{{- end }}
{{- $meets := or (eq "redis" (dig "cluster" "driver" "" .Values.config)) (has "SOKETI_ADAPTER_DRIVER" $variables) (has "GEMA_CLUSTER_DRIVER" $variables) }}
{{- if and (or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1)) (not $meets) }}
{{- fail "several pods need Redis: set config.cluster.driver to redis and config.redis.host to its host" }}
{{- end }}
{{- $drain := dig "server" "drain_seconds" 3 .Values.config }}
{{- if le (float64 .Values.terminationGracePeriodSeconds) (float64 $drain) }}
{{- fail "terminationGracePeriodSeconds must be more than config.server.drain_seconds" }}
{{- end }}
{{- end }}
