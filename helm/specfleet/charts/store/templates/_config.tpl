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
    {{- with dig "limits" "memory" "" .store.resources }}
    maxmemory {{ include "specfleet.amount" . | float64 | mulf 0.6 | int64 }}
    {{- end }}
    {{- if $secret.name }}
    include /tmp/password.conf
    {{- else }}
    protected-mode no
    {{- end }}
{{- end -}}
