{{/* Whether Ray's actors are this drafter's processes: (root, of). Those that scale are a StatefulSet's. */}}
{{- define "specfleet.onRay" -}}{{ if and .root.Values.ray.enabled (not .of.autoscaling) }}yes{{ end }}{{- end -}}

{{/* An engine's section with the device that its pod has: nothing is left to what a node shows when it comes: (of, engine) */}}
{{- define "specfleet.engine" -}}
{{- merge (deepCopy .engine) (dict "device" (ternary "cuda" "cpu" (gt (int (default 0 .of.gpus)) 0))) | toYaml -}}
{{- end -}}

{{/* A drafter's section: (root, name, of). What the chart starts itself is not for the supervisor to place. */}}
{{- define "specfleet.drafterEntry" -}}
{{ .name | quote }}:
  {{- pick .of "kind" "capacity" | toYaml | nindent 2 }}
  {{- with .of.engine }}
  engine:
    {{- include "specfleet.engine" (dict "of" $.of "engine" .) | nindent 4 }}
  {{- end }}
  {{- if include "specfleet.onRay" . }}
  replicas: {{ int (dig "replicas" 1 .of) }}
  num_gpus: {{ int (default 0 .of.gpus) }}
  labels: {specfleet/part: drafter, specfleet/drafter: {{ .name | quote }}}
  {{- else }}
  replicas: 0
  {{- end }}
{{- end -}}

{{/* The fleet's file. Order counts among drafters, and a map of values has none but the alphabet's. */}}
{{- define "specfleet.file" -}}
{{- include "specfleet.check" . -}}
{{- $v := .Values -}}
engine:
  {{- include "specfleet.engine" (dict "of" $v.verifier "engine" $v.engine) | nindent 2 }}
verifier:
  prune: {{ toJson $v.verifier.prune }}
  {{- if $v.ray.enabled }}
  labels: {specfleet/part: verifier}
  {{- end }}
drafters:
  {{- $names := keys $v.drafters | sortAlpha }}
  {{- if $v.router.firstDrafter }}
  {{- $names = prepend (without $names $v.router.firstDrafter) $v.router.firstDrafter }}
  {{- end }}
  {{- $entries := list }}
  {{- range $names }}
  {{- $entries = append $entries (include "specfleet.drafterEntry" (dict "root" $ "name" . "of" (get $v.drafters .)) | trim) }}
  {{- end }}
  {{- join "\n" (default (list "{}") $entries) | nindent 2 }}
router:
  {{- $first := dict "host" "0.0.0.0" "grpc_port" 50051 "http_port" 8000 }}
  {{- toYaml (merge (deepCopy $v.router.config) $first) | nindent 2 }}
store:
  {{- $place := dict "url" (include "specfleet.storeUrl" .) }}
  {{- if $v.store.passwordSecret.name }}{{ $_ := set $place "password_file" "/etc/specfleet/store/password" }}{{ end }}
  {{- if $v.store.caSecret.name }}{{ $_ := set $place "ca_file" "/etc/specfleet/store-ca/ca.crt" }}{{ end }}
  {{- if not (include "specfleet.one" .) }}{{ $_ := set $place "when_cut_off" "stop" }}{{ end }}
  {{- toYaml (merge (deepCopy $v.store.config) $place) | nindent 2 }}
security:
  {{- if $v.security.insecure }}
  insecure: true
  {{- else }}
  tls: /etc/specfleet/tls
  api_keys: /etc/specfleet/keys/keys.json
  {{- end }}
{{- end -}}

{{- define "specfleet.one" -}}{{ if and (eq (int .Values.router.replicas) 1) (not .Values.router.autoscaling.enabled) }}yes{{ end }}{{- end -}}

{{- define "specfleet.storeUrl" -}}
{{- if include "specfleet.ownStore" . -}}
redis://{{ include "store.name" (dict "root" .) }}.{{ .Release.Namespace }}.svc:6379/0
{{- else -}}
{{ .Values.store.url }}
{{- end -}}
{{- end -}}
