"""The chart's values, typed. Parts that go into the fleet's file as they are have the file's own types, so that what
the file refuses is refused by `helm` already. `helm/schema.py` makes the JSON schema of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.config import EngineConfig, RouterConfig, StoreConfig
from contracts.config.drafter import DrafterKind
from contracts.config.verifier import PruneConfig
from router.metrics.histogram import LATENCY_S, MOMENT_S

_Kubernetes = dict[str, Any]  # checked by Kubernetes itself
_Name = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$")]
_Quantity = Annotated[str, Field(pattern=r"^([0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?)?$")]
_Amount = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")] | Annotated[float, Field(ge=0)]
_Address = Annotated[str, Field(pattern=r"^(https?://[^\s/]+(/\S*)?)?$")]
_Seconds = Annotated[int, Field(ge=0, le=3600)]


class Values(BaseModel):
    """Base of every part: no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Image(Values):
    repository: Annotated[str, Field(min_length=1, description="Without a tag")]
    tag: Annotated[str, Field(description="Empty: the chart's version; pods with GPUs take TAG-cuda")]
    digest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$", description="Of the image without CUDA")]
    cudaDigest: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$", description="Of the image with CUDA")]
    pullPolicy: Literal["Always", "IfNotPresent", "Never"]
    pullSecrets: list[dict[Literal["name"], str]]


class SecretKey(Values):
    name: Annotated[_Name, Field(description="Name of a Secret")]
    key: Annotated[str, Field(min_length=1, max_length=253)]


class Engine(EngineConfig):
    """The file's own section, but that the default may leave the model open, which the templates refuse in words."""

    model: Annotated[str, Field(max_length=4096, description="Checkpoint folder below /models, or a hub id")]


class Resources(Values):
    requests: dict[str, _Amount] = {}
    limits: dict[str, _Amount] = {}


class Placed(Values):
    """Where and with what a pod runs."""

    gpus: Annotated[int, Field(ge=0, le=64, description="GPUs of the pod; more than 0 takes the CUDA image")] = 0
    gpuResource: Annotated[str, Field(min_length=1, description="How the device plugin names a GPU")] = "nvidia.com/gpu"
    resources: Resources = Resources()
    nodeSelector: dict[str, str] = {}
    tolerations: list[_Kubernetes] = []
    sharedMemory: Annotated[_Quantity, Field(description="Of /dev/shm, which ranks and Ray use")] = "1Gi"
    graceSeconds: Annotated[_Seconds, Field(description="To end the step at hand and leave the fleet")] = 60


class Verifier(Placed):
    prune: list[PruneConfig] = []
    evictable: Annotated[bool, Field(description="Whether its node may be drained; false: a budget forbids it")] = True


class Autoscaling(Values):
    """Of a drafter."""

    min: Annotated[int, Field(ge=1, le=256)]
    max: Annotated[int, Field(ge=1, le=256)]
    waitShare: Annotated[
        float, Field(gt=0, lt=1, description="Part of the time for which rounds may wait for drafts before more come")
    ] = 0.2
    by: Annotated[
        Literal["keda", "hpa"], Field(description="hpa: by the external metric specfleet_draft_wait_share")
    ] = "keda"


class Drafter(Placed):
    kind: DrafterKind
    engine: EngineConfig | None = None
    capacity: Annotated[int, Field(ge=1, le=4096)] = 64
    replicas: Annotated[int, Field(ge=0, le=256)] = 1
    autoscaling: Autoscaling | None = None
    withTarget: Annotated[
        bool, Field(description="Whether it lives in the verifier's process, and has no pod of its own")
    ] = False
    gpuShare: Annotated[
        float,
        Field(
            ge=0, lt=1, multiple_of=0.0001, description="Its part of the verifier's GPU; 0: it runs on the pod's CPUs"
        ),
    ] = 0.0


class RouterFile(RouterConfig):
    """What of the file's section is free: where it listens is the chart's."""

    host: Literal["0.0.0.0", "::"] = "0.0.0.0"
    grpc_port: Literal[50051] = 50051
    http_port: Literal[8000] = 8000


class RouterAutoscaling(Values):
    enabled: bool
    min: Annotated[int, Field(ge=1, le=9)]
    max: Annotated[int, Field(ge=1, le=9)]
    waiting: Annotated[int, Field(ge=1, description="Requests in the queue for each router, which stands by for them")]
    by: Annotated[Literal["keda", "hpa"], Field(description="hpa: by the external metric specfleet_requests_waiting")]


class Router(Values):
    replicas: Annotated[int, Field(ge=1, le=9)]
    autoscaling: RouterAutoscaling
    firstDrafter: Annotated[_Name, Field(description="The drafter of the modes with one; empty: the first by name")]
    config: Annotated[RouterFile, Field(description="The file's section `router`")]
    resources: Resources
    nodeSelector: dict[str, str]
    tolerations: list[_Kubernetes]
    handoverSeconds: Annotated[_Seconds, Field(description="For which a router that ends goes on beside its successor")]
    graceSeconds: Annotated[_Seconds, Field(description="For which it may end afterwards")]


class StoreFile(StoreConfig):
    """What of the file's section is free."""

    url: Literal[""] = ""
    password_file: None = None
    sentinel_password_file: None = None
    ca_file: None = None
    cert_file: None = None
    key_file: None = None


class OwnStore(Values):
    """What the subchart's own values.yaml has, which Helm leaves out where the subchart is off."""

    size: _Quantity = "8Gi"
    storageClass: str = ""
    resources: Resources = Resources(requests={"cpu": "250m", "memory": "512Mi"}, limits={"memory": "512Mi"})


class Store(OwnStore):
    enabled: Annotated[bool, Field(description="Whether the fleet has a store of its own, by the subchart")]
    url: Annotated[
        str,
        Field(
            max_length=1024,
            pattern=r"^(rediss?(\+sentinel|\+cluster)?://\S+)?$",
            description="Of a Redis or Valkey that is there; no password in it",
        ),
    ]
    passwordSecret: SecretKey
    caSecret: SecretKey
    config: Annotated[StoreFile, Field(description="The file's section `store`")]


class Issuer(Values):
    name: _Name
    kind: Literal["Issuer", "ClusterIssuer"]
    group: str


class Certificates(Values):
    create: bool
    issuer: Issuer
    duration: Annotated[str, Field(pattern=r"^[0-9]+h$")]
    renewBefore: Annotated[str, Field(pattern=r"^[0-9]+h$")]
    secretPrefix: _Name
    hosts: list[str]


class Security(Values):
    insecure: bool
    apiKeysSecret: SecretKey
    certificates: Certificates


class Claim(Values):
    existing: _Name
    create: bool
    size: _Quantity
    storageClass: str
    accessModes: list[Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]]


class Models(Values):
    claim: Claim
    image: Annotated[str, Field(description="OCI image with checkpoint folders")]
    download: Annotated[list[Annotated[str, Field(min_length=1)]], Field(description="Hub ids that a job fetches")]
    endpoint: Annotated[_Address, Field(description="Another hub's address")]
    tokenSecret: SecretKey
    cacheSize: Annotated[_Quantity, Field(description="Where models have no volume: most that a pod may fetch")]


class Ray(Values):
    enabled: bool
    version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]
    faultTolerant: Annotated[bool, Field(description="Whether the head keeps what it knows in the own store")]
    headResources: Resources
    supervisorResources: Resources


class Tracing(Values):
    endpoint: Annotated[
        str,
        Field(pattern=r"^(https?://[^\s/]+:[0-9]{1,5}/?)?$", description="Of a collector that takes OTLP by gRPC"),
    ]
    share: Annotated[float, Field(gt=0, le=1, description="Of the requests whose client does not decide")]


class Service(Values):
    type: Literal["ClusterIP", "LoadBalancer", "NodePort"]
    annotations: dict[str, str]


class Ingress(Values):
    enabled: bool
    className: str
    host: str
    tlsSecret: _Name
    annotations: dict[str, str]


class Gateway(Values):
    enabled: bool
    route: Annotated[bool, Field(description="false: this fleet is among `besides` of another, which has the route")]
    parentRefs: list[_Kubernetes]
    hostnames: list[str]
    besides: Annotated[list[_Name], Field(description="Services of other releases that share the route's requests")]


class NetworkPolicy(Values):
    enabled: bool
    clients: Annotated[list[_Kubernetes], Field(description="Peers that may reach the router's faces")]
    monitoring: Annotated[list[_Kubernetes], Field(description="Peers that may read metrics and Ray's dashboard")]
    operator: Annotated[list[_Kubernetes], Field(description="Peers that are the KubeRay operator")]
    storePort: Annotated[
        int, Field(ge=1, le=65535, description="Of the store's servers, where store.url does not say it")
    ]
    hubPort: Annotated[int, Field(ge=1, le=65535, description="Of the hub that models come from")]


class Dashboards(Values):
    enabled: bool
    labels: dict[str, str]


class Objectives(Values):
    """Below the last bound of each histogram, for a quantile is never said to be above that."""

    timeToFirstTokenSeconds: Annotated[float, Field(gt=0, lt=LATENCY_S[-1], description="Of 19 in 20 requests")]
    timePerOutputTokenSeconds: Annotated[
        float, Field(gt=0, lt=MOMENT_S[-1], description="Of 19 in 20 answers, in the mean")
    ]


class Monitoring(Values):
    serviceMonitor: bool
    podMonitors: bool
    rules: bool
    objectives: Objectives
    labels: Annotated[dict[str, str], Field(description="By which your Prometheus finds monitors and rules")]
    interval: Annotated[str, Field(pattern=r"^[0-9]+(s|m)$")]
    keySecret: Annotated[SecretKey, Field(description="An API key with the role metrics")]
    dashboards: Dashboards
    prometheusUrl: Annotated[_Address, Field(description="Where KEDA asks, for autoscaling by keda")]


class ChartValues(Values):
    """values.yaml."""

    nameOverride: Annotated[str, Field(max_length=40)]
    fullnameOverride: Annotated[str, Field(max_length=40)]
    image: Image
    engine: Engine
    verifier: Verifier
    drafters: dict[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$")], Drafter]
    router: Router
    store: Store
    security: Security
    models: Models
    ray: Ray
    logs: Literal["text", "json"]
    tracing: Tracing
    service: Service
    ingress: Ingress
    gateway: Gateway
    networkPolicy: NetworkPolicy
    monitoring: Monitoring
