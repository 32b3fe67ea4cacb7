{{/* What a schema cannot say, in words. Nothing is rendered. */}}
{{- define "specfleet.check" -}}
{{- $v := .Values -}}
{{- if not $v.engine.model -}}
{{- fail "engine.model is empty; it must be /models/FOLDER of a volume (see models in values.yaml) or a hub id such as OWNER/NAME" -}}
{{- end -}}
{{- if and (not $v.security.insecure) (not $v.security.apiKeysSecret.name) -}}
{{- fail "security.apiKeysSecret.name is empty; make keys with `specfleet keys add keys.json NAME` and a Secret of them with `kubectl create secret generic specfleet-keys --from-file=keys.json`, and name it; or say security.insecure: true where everyone on the network may use the fleet" -}}
{{- end -}}
{{- if contains "@" $v.store.url -}}
{{- fail "store.url has a user or a password in it, which would stand in a ConfigMap; put the password into a Secret and name it in store.passwordSecret" -}}
{{- end -}}
{{- if and (not $v.store.url) (not $v.store.enabled) -}}
{{- fail "store.url is empty and store.enabled is false; without a store routers cannot stand by for each other: give the address of a Redis or Valkey, or take the own one" -}}
{{- end -}}
{{- if and $v.store.url $v.store.enabled -}}
{{- fail (printf "store.url is %q and store.enabled is true; a fleet has one store: say store.enabled: false to use the one at store.url, or leave store.url empty" $v.store.url) -}}
{{- end -}}
{{- if and $v.store.enabled (not $v.store.passwordSecret.name) (not $v.security.insecure) -}}
{{- fail "store.passwordSecret.name is empty; make a Secret with `kubectl create secret generic specfleet-store --from-literal=password=$(openssl rand -hex 32)` and name it" -}}
{{- end -}}
{{- if and $v.store.caSecret.name (not (hasPrefix "rediss" $v.store.url)) -}}
{{- fail (printf "store.caSecret.name is %q and store.url does not use TLS; it must begin with rediss" $v.store.caSecret.name) -}}
{{- end -}}
{{- if and $v.models.download (not (include "specfleet.claim" .)) -}}
{{- fail "models.download is given and there is no claim to put models on; it needs models.claim.existing or models.claim.create" -}}
{{- end -}}
{{- if and $v.models.image (include "specfleet.claim" .) -}}
{{- fail "models.image and models.claim are both given; only one of them can be mounted at /models" -}}
{{- end -}}
{{- if and $v.gateway.enabled $v.gateway.route (not $v.gateway.parentRefs) -}}
{{- fail "gateway.parentRefs is empty; it must name the Gateway that the route belongs to" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.host) -}}
{{- fail "ingress.host is empty; it must be the name under which clients reach the fleet" -}}
{{- end -}}
{{- if and $v.monitoring.serviceMonitor (not $v.security.insecure) (not $v.monitoring.keySecret.name) -}}
{{- fail "monitoring.keySecret.name is empty; /metrics asks for an API key: `specfleet keys add keys.json prometheus --role metrics`, put the key that it shows into a Secret, and name that" -}}
{{- end -}}
{{- if and $v.ray.enabled $v.ray.faultTolerant (not $v.store.enabled) -}}
{{- fail "ray.faultTolerant is true and store.enabled is false; Ray's head can use the fleet's own store alone, so take that or set up Ray's Redis by yourself" -}}
{{- end -}}
{{- with $v.security.certificates -}}
{{- if and .create (ge (int (trimSuffix "h" .renewBefore)) (int (trimSuffix "h" .duration))) -}}
{{- fail (printf "security.certificates.duration is %s and renewBefore is %s; renewBefore must be shorter" .duration .renewBefore) -}}
{{- end -}}
{{- end -}}
{{- $ranks := int (default 1 $v.engine.tensor_parallel) -}}
{{- if and (gt (int $v.verifier.gpus) 0) (lt (int $v.verifier.gpus) $ranks) -}}
{{- fail (printf "verifier.gpus is %d and engine.tensor_parallel is %d; each rank needs a GPU of its own" (int $v.verifier.gpus) $ranks) -}}
{{- end -}}
{{- if and $v.router.firstDrafter (not (hasKey $v.drafters $v.router.firstDrafter)) -}}
{{- fail (printf "router.firstDrafter is %q; drafters are: %s" $v.router.firstDrafter (join ", " (keys $v.drafters | sortAlpha))) -}}
{{- end -}}
{{- range $name, $drafter := $v.drafters -}}
{{- if has $name (list "router" "store" "verifier") -}}
{{- fail (printf "drafters has the name %s, which is that of another part of the fleet; it must be another name" $name) -}}
{{- end -}}
{{- $model := get (default dict $drafter.engine) "model" -}}
{{- if and (eq $drafter.kind "model") (not $model) -}}
{{- fail (printf "drafters.%s is of kind model and has no engine.model; it must be /models/FOLDER or a hub id" $name) -}}
{{- end -}}
{{- if and (ne $drafter.kind "model") $drafter.engine -}}
{{- fail (printf "drafters.%s is of kind %s and engine is given; it must be left out, or kind be model" $name $drafter.kind) -}}
{{- end -}}
{{- include "specfleet.checkResources" (dict "key" (printf "drafters.%s.resources" $name) "of" $drafter.resources) -}}
{{- with $drafter.autoscaling -}}
{{- include "specfleet.checkScaling" (dict "root" $ "key" (printf "drafters.%s.autoscaling" $name) "of" .) -}}
{{- end -}}
{{- end -}}
{{- range $key, $of := dict "verifier.resources" $v.verifier.resources "router.resources" $v.router.resources "store.resources" $v.store.resources "ray.headResources" $v.ray.headResources "ray.supervisorResources" $v.ray.supervisorResources -}}
{{- include "specfleet.checkResources" (dict "key" $key "of" $of) -}}
{{- end -}}
{{- include "specfleet.checkGuests" . -}}
{{- if $v.router.autoscaling.enabled -}}
{{- include "specfleet.checkScaling" (dict "root" . "key" "router.autoscaling" "of" $v.router.autoscaling) -}}
{{- end -}}
{{- end -}}

{{/* Drafters in the target's process. */}}
{{- define "specfleet.checkGuests" -}}
{{- range $name, $of := .Values.drafters -}}
{{- if and $of.gpuShare (not $of.withTarget) -}}
{{- fail (printf "drafters.%s.gpuShare is %v and withTarget is not true; gpuShare is a part of the target's GPU for a drafter in its process, and gpus are those of a pod of its own" $name $of.gpuShare) -}}
{{- end -}}
{{- end -}}
{{- $guests := include "specfleet.guests" . | fromJson -}}
{{- range $name, $of := $guests -}}
{{- include "specfleet.checkGuest" (dict "root" $ "key" (printf "drafters.%s" $name) "of" $of) -}}
{{- end -}}
{{- if gt (len $guests) 8 -}}
{{- fail (printf "%d drafters have withTarget; at most 8 may, for all share one Python with the target" (len $guests)) -}}
{{- end -}}
{{- if le (float64 (include "specfleet.targetShare" .)) 0.0 -}}
{{- $shares := list -}}
{{- range $guests }}{{ $shares = append $shares (toString (default 0 .gpuShare)) }}{{ end -}}
{{- fail (printf "gpuShare of the drafters %s is %s; together it must be less than 1, for the target needs the rest" (join ", " (keys $guests | sortAlpha)) (join ", " $shares)) -}}
{{- end -}}
{{- end -}}

{{/* (root, key, of) */}}
{{- define "specfleet.checkGuest" -}}
{{- $v := .root.Values -}}
{{- $engine := default dict .of.engine -}}
{{- $said := printf "%s.withTarget is true and" .key -}}
{{- if ne .of.kind "model" -}}
{{- fail (printf "%s kind is %s; only kind model gains by it" $said .of.kind) -}}
{{- end -}}
{{- if .of.autoscaling -}}
{{- fail (printf "%s autoscaling is given; there is one process of the target: one of the two must be left out" $said) -}}
{{- end -}}
{{- if ne (int (dig "replicas" 1 .of)) 1 -}}
{{- fail (printf "%s replicas is %d; it must be 1, for there is one process of the target" $said (int .of.replicas)) -}}
{{- end -}}
{{- range $key, $ranks := dict "engine.tensor_parallel" $v.engine.tensor_parallel (printf "%s.engine.tensor_parallel" .key) $engine.tensor_parallel -}}
{{- if gt (int (default 1 $ranks)) 1 -}}
{{- fail (printf "%s %s is %d; it must be 1, for other ranks are processes of their own" $said $key (int $ranks)) -}}
{{- end -}}
{{- end -}}
{{- if .of.gpus -}}
{{- fail (printf "%s gpus is %d; its GPU is the target's, and gpuShare its part of it" $said (int .of.gpus)) -}}
{{- end -}}
{{- range $key := list "gpuResource" "resources" "nodeSelector" "tolerations" "sharedMemory" "graceSeconds" -}}
{{- if get $.of $key -}}
{{- fail (printf "%s %s is given; it has no pod of its own, and verifier.%s is for both" $said $key $key) -}}
{{- end -}}
{{- end -}}
{{- if and .of.gpuShare (eq (int $v.verifier.gpus) 0) -}}
{{- fail (printf "%s.gpuShare is %v and verifier.gpus is 0; there is no GPU to have a part of" .key .of.gpuShare) -}}
{{- end -}}
{{- $device := default "auto" $engine.device -}}
{{- if eq $device (ternary "cpu" "cuda" (gt (float64 (default 0 .of.gpuShare)) 0.0)) -}}
{{- fail (printf "%s.gpuShare is %v and engine.device is %s; gpuShare must be above 0 for cuda, and 0 for cpu" .key (default 0 .of.gpuShare) $device) -}}
{{- end -}}
{{- end -}}

{{/* (key, of) */}}
{{- define "specfleet.checkResources" -}}
{{- $of := default dict .of -}}
{{- $key := .key -}}
{{- range $what, $most := $of.limits -}}
{{- $asked := dig "requests" $what 0 $of -}}
{{- if gt (float64 (include "specfleet.amount" $asked)) (float64 (include "specfleet.amount" $most)) -}}
{{- fail (printf "%s has requests of %v %s and limits of %v; requests must not be larger" $key $asked $what $most) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* (root, key, of) */}}
{{- define "specfleet.checkScaling" -}}
{{- if gt (int .of.min) (int .of.max) -}}
{{- fail (printf "%s has min %d and max %d; min must not be larger" .key (int .of.min) (int .of.max)) -}}
{{- end -}}
{{- if and (eq (dig "by" "keda" .of) "keda") (not .root.Values.monitoring.prometheusUrl) -}}
{{- fail (printf "%s is given and monitoring.prometheusUrl is empty; it must be where KEDA can ask for the router's metrics" .key) -}}
{{- end -}}
{{- end -}}
