{{- define "store.statefulset" -}}
{{- $secret := .store.passwordSecret -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "store.name" . }}
  labels:
    {{- include "specfleet.labels" .root | nindent 4 }}
    app.kubernetes.io/component: store
spec:
  serviceName: {{ include "store.name" . }}
  replicas: 1
  selector:
    matchLabels:
      {{- include "specfleet.selector" .root | nindent 6 }}
      app.kubernetes.io/component: store
  template:
    metadata:
      labels:
        {{- include "specfleet.selector" .root | nindent 8 }}
        app.kubernetes.io/component: store
    spec:
      {{- include "specfleet.placing" (dict "root" .root "of" dict "part" "store") | nindent 6 }}
      terminationGracePeriodSeconds: 60
      containers:
        - name: valkey
          image: {{ include "specfleet.image" (dict "root" .root "cuda" false) }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          {{- if $secret.name }}
          # No argument and no environment variable holds the password: both can be read by others.
          command:
            - sh
            - -ec
            - |
              umask 077
              printf 'requirepass "%s"\n' "$(sed 's/[\\"]/\\&/g' /etc/specfleet/store/password)" > /tmp/password.conf
              exec valkey-server /etc/valkey/valkey.conf
          {{- else }}
          command: [valkey-server, /etc/valkey/valkey.conf]
          {{- end }}
          ports:
            - {name: valkey, containerPort: 6379}
          startupProbe: {tcpSocket: {port: valkey}, periodSeconds: 2, failureThreshold: 150}
          livenessProbe: {tcpSocket: {port: valkey}, periodSeconds: 10}
          readinessProbe: {tcpSocket: {port: valkey}, periodSeconds: 2}
          resources:
            {{- toYaml .store.resources | nindent 12 }}
          securityContext:
            {{- include "specfleet.containerSecurity" .root | nindent 12 }}
          volumeMounts:
            - {name: config, mountPath: /etc/valkey, readOnly: true}
            - {name: data, mountPath: /data}
            - {name: tmp, mountPath: /tmp}
            {{- if $secret.name }}
            - {name: password, mountPath: /etc/specfleet/store, readOnly: true}
            {{- end }}
      volumes:
        - name: config
          configMap: {name: {{ include "store.name" . }}}
        - name: tmp
          emptyDir: {medium: Memory, sizeLimit: 1Mi}
        {{- if $secret.name }}
        - name: password
          secret: {secretName: {{ $secret.name }}, defaultMode: 0440, items: [{key: {{ $secret.key }}, path: password}]}
        {{- end }}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .store.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources: {requests: {storage: {{ .store.size }}}}
{{- end -}}
