{{/* Names of a drafter's processes, each of them an entry of the fleet's file, separated by blanks: (name, values).
     A name in the fleet belongs to one process; the ordinal of a pod chooses among them. */}}
{{- define "specfleet.processes" -}}
{{- $name := .name -}}
{{- if .of.autoscaling -}}
{{- range $i := until (int .of.autoscaling.max) }}{{ $name }}-{{ $i }} {{ end -}}
{{- else if eq (int (dig "replicas" 1 .of)) 1 -}}
{{ $name }}
{{- else -}}
{{- range $i := until (int .of.replicas) }}{{ $name }}-{{ $i }} {{ end -}}
{{- end -}}
{{- end -}}

{{- define "specfleet.drafterEntry" -}}
{{- range $process := include "specfleet.processes" . | trim | splitList " " }}
{{- if $process }}
{{ $process | quote }}:
  {{- pick $.of "kind" "engine" "capacity" | toYaml | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The fleet's file. Order counts among drafters, and a map of values has none but the alphabet's. */}}
{{- define "specfleet.file" -}}
{{- include "specfleet.check" . -}}
{{- $v := .Values -}}
engine:
  {{- toYaml $v.engine | nindent 2 }}
{{- with $v.verifier.prune }}
verifier:
  prune:
    {{- toYaml . | nindent 4 }}
{{- end }}
drafters:
  {{- $names := keys $v.drafters | sortAlpha }}
  {{- if $v.router.firstDrafter }}
  {{- $names = prepend (without $names $v.router.firstDrafter) $v.router.firstDrafter }}
  {{- end }}
  {{- $entries := list }}
  {{- range $names }}
  {{- with include "specfleet.drafterEntry" (dict "name" . "of" (get $v.drafters .)) | trim }}
  {{- $entries = append $entries . }}
  {{- end }}
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

{{- define "specfleet.one" -}}{{ if eq (int .Values.router.replicas) 1 }}yes{{ end }}{{- end -}}

{{- define "specfleet.storeUrl" -}}
{{- if include "specfleet.ownStore" . -}}
redis://{{ include "specfleet.fullname" . }}-store.{{ .Release.Namespace }}.svc:6379/0
{{- else -}}
{{ .Values.store.url }}
{{- end -}}
{{- end -}}
