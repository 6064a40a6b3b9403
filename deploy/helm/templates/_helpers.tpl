{{- define "gateway.name" -}}
{{- default "gateway" .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "gateway.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "gateway.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "gateway.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "gateway.selectorLabels" -}}
app.kubernetes.io/name: {{ include "gateway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gateway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "gateway.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "gateway.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "gateway.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "gateway.secretName" -}}
{{- default (printf "%s-secrets" (include "gateway.fullname" .)) .Values.existingSecret }}
{{- end }}

{{- define "gateway.configMapName" -}}
{{- default (printf "%s-config" (include "gateway.fullname" .)) .Values.existingConfigMap }}
{{- end }}

{{- define "gateway.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gateway.file" -}}
{{- printf "${file:/run/secrets/gateway/%s}" . }}
{{- end }}

{{/* gateway.yaml, without what needs no restart if `stays` is set. */}}
{{- define "gateway.config" -}}
{{- $keys := .Values.secretKeys }}
{{- $admin := dict "listen" "0.0.0.0:8081" "token" (include "gateway.file" $keys.adminToken) }}
{{- if $keys.metricsToken }}
{{- $_ := set $admin "tokens" (list (dict "id" "prometheus" "token" (include "gateway.file" $keys.metricsToken) "role" "read")) }}
{{- end }}
{{- $base := dict "listen" "0.0.0.0:8080" "admin" $admin "data_dir" "/var/lib/gateway" }}
{{- $_ := set $base "secret" (include "gateway.file" $keys.secret) }}
{{- $_ := set $base "redis" (ternary (include "gateway.file" $keys.redisUrl) "" (ne $keys.redisUrl "")) }}
{{- $_ := set $base "timeouts" (dict "drain" .Values.drain.limit "drain_delay" .Values.drain.delay) }}
{{- $config := mergeOverwrite $base (deepCopy .Values.config) }}
{{- if .stays }}
{{- $config = omit $config "accounts" "keys" "issuers" "teams" "teams_strict" "models" "cors" "share" "public_url" "trusted_proxies" "expose_account" "retry_ambiguous" }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* What no schema can say. */}}
{{- define "gateway.check" -}}
{{- $timeouts := .Values.config.timeouts | default dict }}
{{- if or (hasKey $timeouts "drain") (hasKey $timeouts "drain_delay") }}
{{- fail "config.timeouts.drain and drain_delay are written from drain.limit and drain.delay: the pod's grace period has to agree" }}
{{- end }}
{{- if not .Values.existingConfigMap }}
{{- if not .Values.config.accounts }}
{{- fail "config.accounts is empty: name at least one account, or an existingConfigMap" }}
{{- end }}
{{- $replicas := ternary .Values.autoscaling.maxReplicas .Values.replicaCount .Values.autoscaling.enabled | int }}
{{- $redis := or .Values.secretKeys.redisUrl .Values.config.redis }}
{{- if and (gt $replicas 1) (not $redis) }}
{{- fail "several replicas need one Redis: name the key of its URL in secretKeys.redisUrl, or set replicaCount to 1" }}
{{- end }}
{{- end }}
{{- if and .Values.metrics.serviceMonitor.enabled (not .Values.secretKeys.metricsToken) }}
{{- fail "metrics.serviceMonitor needs secretKeys.metricsToken: the token that Prometheus sends" }}
{{- end }}
{{- end }}

{{- define "gateway.pod" -}}
metadata:
  labels:
    {{- include "gateway.selectorLabels" . | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    {{- if not .Values.existingConfigMap }}
    # Of what needs a restart; the rest of the file is followed.
    checksum/config: {{ include "gateway.config" (merge (dict "stays" true) .) | sha256sum }}
    {{- end }}
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "gateway.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  # Otherwise the gateway were process number 1, for which a SIGTERM is nothing until it listens to signals: a pod
  # stopped in its first second would be there until it is killed.
  shareProcessNamespace: true
  # There is no preStop hook: while the delay lasts the gateway is not ready, yet accepts what comes from those who have
  # not heard of it. Half a minute more to close the books.
  terminationGracePeriodSeconds: {{ add (ceil .Values.drain.delay) (ceil .Values.drain.limit) 30 }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- range . }}
    - {{ mergeOverwrite (dict "labelSelector" (dict "matchLabels" (include "gateway.selectorLabels" $ | fromYaml))) (deepCopy .) | toYaml | nindent 6 | trim }}
    {{- end }}
  {{- end }}
  containers:
    - name: gateway
      image: {{ include "gateway.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      ports:
        - {name: http, containerPort: 8080}
        - {name: admin, containerPort: 8081}
      {{- with .Values.extraEnv }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      startupProbe:
        httpGet: {path: /readyz, port: http}
        {{- toYaml .Values.startupProbe | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: http}
        {{- toYaml .Values.readinessProbe | nindent 8 }}
      livenessProbe:
        httpGet: {path: /healthz, port: http}
        {{- toYaml .Values.livenessProbe | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/gateway, readOnly: true}
        - {name: secrets, mountPath: /run/secrets/gateway, readOnly: true}
        - {name: data, mountPath: /var/lib/gateway}
        - {name: tmp, mountPath: /tmp}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "gateway.configMapName" . }}}
    - name: secrets
      secret: {secretName: {{ include "gateway.secretName" . }}, defaultMode: 0440}
    - name: tmp
      emptyDir: {medium: Memory, sizeLimit: 64Mi}
    {{- if eq .Values.kind "Deployment" }}
    - name: data
      emptyDir: {sizeLimit: {{ .Values.persistence.size }}}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
