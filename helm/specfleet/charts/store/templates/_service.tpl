{{- define "store.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "store.name" . }}
  labels:
    {{- include "specfleet.labels" .root | nindent 4 }}
spec:
  selector:
    {{- include "specfleet.selector" .root | nindent 4 }}
    app.kubernetes.io/component: store
  ports:
    - {name: valkey, port: 6379, targetPort: valkey}
{{- end -}}
