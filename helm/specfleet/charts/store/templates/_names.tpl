{{/* Everything here is given (dict "root" $ "store" values): the fleet's scope, and this chart's own values. */}}
{{- define "store.name" -}}
{{ include "specfleet.fullname" .root }}-store
{{- end -}}
