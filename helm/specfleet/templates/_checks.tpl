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
{{- $model := dig "engine" "model" "" $drafter -}}
{{- if and (eq $drafter.kind "model") (not $model) -}}
{{- fail (printf "drafters.%s is of kind model and has no engine.model; it must be /models/FOLDER or a hub id" $name) -}}
{{- end -}}
{{- if and (ne $drafter.kind "model") $drafter.engine -}}
{{- fail (printf "drafters.%s is of kind %s and engine is given; it must be left out, or kind be model" $name $drafter.kind) -}}
{{- end -}}
{{- with $drafter.autoscaling -}}
{{- include "specfleet.checkScaling" (dict "root" $ "key" (printf "drafters.%s.autoscaling" $name) "of" .) -}}
{{- end -}}
{{- end -}}
{{- if $v.router.autoscaling.enabled -}}
{{- include "specfleet.checkScaling" (dict "root" . "key" "router.autoscaling" "of" $v.router.autoscaling) -}}
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
