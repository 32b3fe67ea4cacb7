{{/* Where a drafter lives: (root, of). In the target's process, on nodes of Ray's, or in pods of a StatefulSet, as those do
     that scale. */}}
{{- define "specfleet.home" -}}
{{ if .of.withTarget }}target{{ else if and .root.Values.ray.enabled (not .of.autoscaling) }}ray{{ else }}pods{{ end }}
{{- end -}}

{{/* The drafters in the target's process, by name, as JSON. */}}
{{- define "specfleet.guests" -}}
{{- $found := dict -}}
{{- range $name, $of := .Values.drafters }}{{ if $of.withTarget }}{{ $_ := set $found $name $of }}{{ end }}{{ end -}}
{{- toJson $found -}}
{{- end -}}

{{/* What they leave the target of its GPU: in decimals, as it was given, and not by binary fractions. */}}
{{- define "specfleet.targetShare" -}}
{{- $left := 1.0 -}}
{{- range include "specfleet.guests" . | fromJson }}{{ $left = subf $left (default 0 .gpuShare) }}{{ end -}}
{{- toJson $left -}}
{{- end -}}

{{/* An engine's section with the device that its pod has: nothing is left to what a node shows when it comes: (of, engine) */}}
{{- define "specfleet.engine" -}}
{{- merge (deepCopy .engine) (dict "device" (ternary "cuda" "cpu" (gt (int (default 0 .of.gpus)) 0))) | toYaml -}}
{{- end -}}

{{/* A drafter's section: (root, name, of). What the chart starts itself is not for the supervisor to place. */}}
{{- define "specfleet.drafterEntry" -}}
{{- $home := include "specfleet.home" . -}}
{{- $share := float64 (default 0 .of.gpuShare) -}}
{{- $on := ternary (dict "gpus" (ternary 1 0 (gt $share 0.0))) .of (eq $home "target") -}}
{{ .name | quote }}:
  {{- pick .of "kind" "capacity" | toYaml | nindent 2 }}
  {{- with .of.engine }}
  engine:
    {{- include "specfleet.engine" (dict "of" $on "engine" .) | nindent 4 }}
  {{- end }}
  {{- if eq $home "target" }}
  with_target: true
  num_gpus: {{ toJson $share }}
  {{- else if eq $home "ray" }}
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
  {{- $share := include "specfleet.targetShare" . }}
  {{- if ne $share "1" }}
  num_gpus: {{ $share }}
  {{- end }}
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
  {{- if not $v.store.enabled }}{{ $_ := set $place "namespace" (include "specfleet.storeNamespace" .) }}{{ end }}
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

{{/* In a store that is not its own, each release has a lease and a journal of its own. At most 64 characters. */}}
{{- define "specfleet.storeNamespace" -}}
{{- $name := printf "%s.%s" .Release.Namespace (include "specfleet.fullname" .) -}}
{{- ternary $name (printf "%s-%s" (trunc 55 $name) (sha256sum $name | trunc 8)) (le (len $name) 64) -}}
{{- end -}}

{{- define "specfleet.storeUrl" -}}
{{- if include "specfleet.ownStore" . -}}
redis://{{ include "store.name" (dict "root" .) }}.{{ .Release.Namespace }}.svc:6379/0
{{- else -}}
{{ .Values.store.url }}
{{- end -}}
{{- end -}}
