{{- define "store.config" -}}
{{- $secret := .store.passwordSecret -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "store.name" . }}
  labels:
    {{- include "specfleet.labels" .root | nindent 4 }}
data:
  valkey.conf: |
    port 6379
    dir /data
    save ""
    appendonly yes
    appendfsync {{ ternary "always" "everysec" (eq (dig "journal" "" .store.config) "fsynced") }}
    maxmemory-policy noeviction
    {{- if $secret.name }}
    include /tmp/password.conf
    {{- else }}
    protected-mode no
    {{- end }}
{{- end -}}
