{{- define "specfleet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "specfleet.selector" -}}
app.kubernetes.io/name: specfleet
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "specfleet.labels" -}}
{{ include "specfleet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* image: (dict "root" $ "cuda" bool) */}}
{{- define "specfleet.image" -}}
{{- $of := .root.Values.image -}}
{{- $digest := ternary $of.cudaDigest $of.digest .cuda -}}
{{- if $digest -}}
{{ $of.repository }}@{{ $digest }}
{{- else -}}
{{ $of.repository }}:{{ default .root.Chart.AppVersion $of.tag }}{{ if .cuda }}-cuda{{ end }}
{{- end -}}
{{- end -}}

{{- define "specfleet.tls" -}}{{ if not .Values.security.insecure }}yes{{ end }}{{- end -}}
{{- define "specfleet.ownStore" -}}{{ if .Values.store.enabled }}yes{{ end }}{{- end -}}
{{- define "specfleet.hasVolume" -}}
{{- with .Values.models }}{{ if or .claim.existing .claim.create .image }}yes{{ end }}{{ end -}}
{{- end -}}
{{- define "specfleet.claim" -}}
{{- with .Values.models.claim }}{{ if .existing }}{{ .existing }}{{ else if .create }}{{ include "specfleet.fullname" $ }}-models{{ end }}{{ end -}}
{{- end -}}

{{/* The Secret of a role: (dict "root" $ "role" "router") */}}
{{- define "specfleet.certificate" -}}
{{ default (include "specfleet.fullname" .root) .root.Values.security.certificates.secretPrefix }}-{{ .role }}
{{- end -}}

{{/* Where workers find the router: all of them, also those that are not ready, for a router is ready with a verifier. */}}
{{- define "specfleet.routerAddress" -}}
{{ include "specfleet.fullname" . }}-fleet.{{ .Release.Namespace }}.svc:50051
{{- end -}}
