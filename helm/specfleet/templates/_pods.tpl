{{- define "specfleet.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "specfleet.containerSecurity" -}}
runAsNonRoot: true
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end -}}

{{/* What the processes of the fleet write: nothing that has to last. */}}
{{- define "specfleet.environment" -}}
- {name: HOME, value: /tmp}
- {name: SPECFLEET_CACHE_DIR, value: /tmp/specfleet}
- {name: SPECFLEET_LOG, value: {{ .Values.logs }}}
{{- with .Values.tracing.endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
- {name: OTEL_TRACES_SAMPLER, value: parentbased_traceidratio}
- {name: OTEL_TRACES_SAMPLER_ARG, value: {{ $.Values.tracing.share | quote }}}
{{- end }}
{{- end -}}

{{/* Asked without a certificate, on a port that tells nothing else. A process that loads lives, and is not ready. */}}
{{- define "specfleet.probes" -}}
startupProbe: {grpc: {port: 8081}, periodSeconds: 2, failureThreshold: 60}
livenessProbe: {grpc: {port: 8081}, periodSeconds: 10, timeoutSeconds: 5}
readinessProbe: {grpc: {port: 8081, service: ready}, periodSeconds: {{ .every }}, failureThreshold: 2}
{{- end -}}

{{- define "specfleet.modelEnvironment" -}}
- {name: HF_HOME, value: /models/hub}
{{- if include "specfleet.hasVolume" . }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- else }}
{{- include "specfleet.hubEnvironment" . }}
{{- end }}
{{- end -}}

{{- define "specfleet.hubEnvironment" -}}
{{- with .Values.models.endpoint }}
- {name: HF_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- with .Values.models.tokenSecret }}
{{- if .name }}
- {name: HF_TOKEN_PATH, value: /etc/specfleet/hub/token}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of a pod: (dict "root" $ "part" "drafter" "drafter" name "isRayNode" bool). It is made anew when what it reads of the
     file changes; a node of Ray's reads none of it, for its actors are told by the supervisor. */}}
{{- define "specfleet.metadata" -}}
{{- $v := .root.Values -}}
{{- $reads := include "specfleet.file" .root -}}
{{- if eq .part "verifier" }}
{{- $all := list $v.engine $v.verifier.prune $v.security -}}
{{- range $name, $of := include "specfleet.guests" .root | fromJson }}{{ $all = append $all (list $name $of) }}{{ end -}}
{{- $reads = toJson $all }}
{{- end -}}
{{- if eq .part "drafter" }}{{ $reads = toJson (list (pick (get $v.drafters .drafter) "kind" "engine" "capacity") $v.security) }}{{ end -}}
{{- if .isRayNode }}{{ $reads = "nothing" }}{{ end }}
labels:
  {{- include "specfleet.selector" .root | nindent 2 }}
  app.kubernetes.io/component: {{ .part }}
  {{- if or .isRayNode (eq .part "supervisor") }}
  specfleet/on-ray: "true"
  {{- end }}
  {{- with .drafter }}
  specfleet/drafter: {{ . | quote }}
  {{- end }}
annotations:
  checksum/fleet: {{ $reads | sha256sum }}
{{- end -}}

{{/* What every pod of a worker has besides its containers: (dict "root" $ "of" values "selector" labels) */}}
{{- define "specfleet.placing" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "specfleet.podSecurity" .root | nindent 2 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "specfleet.selector" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .part }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Whether a worker's pod dials as a drafter too: (root, role) */}}
{{- define "specfleet.dialsForGuests" -}}
{{- if and (eq .role "verifier") (include "specfleet.tls" .root) (ne (include "specfleet.guests" .root) "{}") }}yes{{ end -}}
{{- end -}}

{{- define "specfleet.workerVolumes" -}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir: {medium: Memory, sizeLimit: {{ default "1Gi" .of.sharedMemory }}}
{{- if include "specfleet.tls" .root }}
- name: tls
  secret: {secretName: {{ include "specfleet.certificate" (dict "root" .root "role" .role) }}, defaultMode: 0440}
{{- end }}
{{- if include "specfleet.dialsForGuests" . }}
- name: tls-drafter
  secret: {secretName: {{ include "specfleet.certificate" (dict "root" .root "role" "drafter") }}, defaultMode: 0440}
{{- end }}
{{ include "specfleet.modelVolume" .root }}
{{- end -}}

{{- define "specfleet.modelVolume" -}}
- name: models
  {{- if .Values.models.image }}
  image: {reference: {{ .Values.models.image | quote }}, pullPolicy: {{ .Values.image.pullPolicy }}}
  {{- else if include "specfleet.claim" . }}
  persistentVolumeClaim: {claimName: {{ include "specfleet.claim" . }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.models.cacheSize }}}
  {{- end }}
{{- with .Values.models.tokenSecret }}
{{- if .name }}
- name: hub
  secret: {secretName: {{ .name }}, defaultMode: 0440, items: [{key: {{ .key }}, path: token}]}
{{- end }}
{{- end }}
{{- end -}}

{{/* A quantity as a number. */}}
{{- define "specfleet.amount" -}}
{{- $unit := regexFind "[A-Za-z]+$" (toString .) -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (trimSuffix $unit (toString .)) (get $units $unit) -}}
{{- end -}}

{{/* Resources of a worker's pod: (of) */}}
{{- define "specfleet.workerResources" -}}
{{- $gpus := int (default 0 .of.gpus) -}}
{{- $resources := default (dict) .of.resources -}}
{{- $limits := deepCopy (default (dict) $resources.limits) -}}
{{- $requests := merge (deepCopy (default (dict) $resources.requests)) (pick $limits "cpu" "memory") (dict "cpu" "1" "memory" "2Gi") -}}
{{- $limits = merge $limits (dict "memory" $requests.memory) -}}
{{- if gt $gpus 0 }}{{ $_ := set $limits (default "nvidia.com/gpu" .of.gpuResource) $gpus }}{{ end -}}
requests: {{ toJson $requests }}
limits: {{ toJson $limits }}
{{- end -}}

{{- define "specfleet.workerMounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: shm, mountPath: /dev/shm}
{{- if include "specfleet.tls" .root }}
- {name: tls, mountPath: /etc/specfleet/tls/{{ .role }}, readOnly: true}
{{- end }}
{{- if include "specfleet.dialsForGuests" . }}
- {name: tls-drafter, mountPath: /etc/specfleet/tls/drafter, readOnly: true}
{{- end }}
- {name: models, mountPath: /models{{ if include "specfleet.hasVolume" .root }}, readOnly: true{{ end }}}
{{- if .root.Values.models.tokenSecret.name }}
- {name: hub, mountPath: /etc/specfleet/hub, readOnly: true}
{{- end }}
{{- end -}}

{{/* The container of a verifier or drafter without Ray: (dict "root" $ "role" "drafter" "of" values "args" list) */}}
{{- define "specfleet.workerContainer" -}}
name: {{ .role }}
image: {{ include "specfleet.image" (dict "root" .root "cuda" (gt (int (default 0 .of.gpus)) 0)) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
command: [python, -m, {{ ternary "workers.verifier" "workers.drafter" (eq .role "verifier") }}]
args:
  - --config=/etc/specfleet/fleet/fleet.yaml
  - --router={{ include "specfleet.routerAddress" .root }}
  - --health=0.0.0.0:8081
  {{- range .args }}
  - {{ . }}
  {{- end }}
env:
  {{- if has "--as" (splitList "=" (last .args)) }}
  - name: POD_INDEX
    valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}
  {{- end }}
  {{- include "specfleet.environment" .root | nindent 2 }}
  {{- include "specfleet.modelEnvironment" .root | nindent 2 }}
ports:
  - {name: health, containerPort: 8081}
{{ include "specfleet.probes" (dict "every" 5) }}
resources:
  {{- include "specfleet.workerResources" . | nindent 2 }}
securityContext:
  {{- include "specfleet.containerSecurity" .root | nindent 2 }}
volumeMounts:
  - {name: fleet, mountPath: /etc/specfleet/fleet, readOnly: true}
  {{- include "specfleet.workerMounts" . | nindent 2 }}
{{- end -}}

{{/* What every container of Ray's has: (dict "root" $ "name" "ray-worker" "cuda" bool) */}}
{{- define "specfleet.rayContainer" -}}
name: {{ .name }}
image: {{ include "specfleet.image" (dict "root" .root "cuda" .cuda) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
ports:
  - {name: metrics, containerPort: 8080}
  {{- if eq .name "ray-head" }}
  - {name: gcs, containerPort: 6379}
  - {name: dashboard, containerPort: 8265}
  - {name: as-metrics, containerPort: 44217}
  - {name: dash-metrics, containerPort: 44227}
  {{- end }}
securityContext:
  {{- include "specfleet.containerSecurity" .root | nindent 2 }}
{{- end -}}

{{- define "specfleet.rayEnvironment" -}}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- if .Values.security.insecure }}
- {name: RAY_AUTH_MODE, value: disabled}
{{- end }}
{{- end -}}
