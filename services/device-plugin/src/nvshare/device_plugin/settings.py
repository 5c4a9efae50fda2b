"""The device plugin's settings, from the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from nvshare.bus.quantities import QuantityError, parse_bytes
from nvshare.device_plugin.allocator import Policy
from nvshare.device_plugin.book import Rules
from nvshare.device_plugin.health import IgnoredXids, SettingError, parse_ignored_xids
from nvshare.device_plugin.injection import DeviceList, EmulatedCards, Injection, Injections
from nvshare.device_plugin.node_shares import Waits
from nvshare.device_plugin.quotas import Quota
from nvshare.device_plugin.replicas import ReplicasError, parse_replicas
from nvshare.device_plugin.shares import RESOURCE


class Settings(BaseSettings):
    """Each is read from NVSHARE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="NVSHARE_", frozen=True)

    node_dir: Path = Path("/var/lib/nvshare")
    """The node's folder, on a disk that survives a reboot. Containers get parts of it mounted, so it has the same path
    here and on the host.
    """

    node: str = ""
    """The node's name, as Kubernetes has it; empty: what node.json says."""

    nats_url: str = ""
    """Where the node's NATS server is; empty: what node.json says."""

    kubelet_dir: Path = Path("/var/lib/kubelet/device-plugins")
    """Where kubelet and device plugins have their sockets."""

    pod_resources_socket: Path = Path("/var/lib/kubelet/pod-resources/kubelet.sock")
    """Kubelet's PodResources interface."""

    resource: str = RESOURCE
    """Name of the resource that pods ask for."""

    shares: str = "10"
    """Shares of each GPU, as `10`, or with others for some: `10,GPU-…=4,0=2`; 0: that GPU is not shared."""

    gpus: str = ""
    """The GPUs that are shared, by index as NVML counts them, as `0,2`; empty: all."""

    gpu_memory: int = 0
    """A logical capacity of each GPU, as `16GiB`; 0: the whole card."""

    ignored_xids: str = ""
    """Xid errors that do not fail a GPU, beside those that programs cause: `63` one more, `-13` one less, or `all`."""

    overcommit: float = Field(default=0.0, ge=0, le=1000)
    """The memory that a GPU promises in all may not pass this multiple of its capacity; 0: no cap."""

    default_memory: int = 0
    """Memory quota of containers without one, as `4Gi`; 0: none."""

    default_cores: int = Field(default=0, ge=0, le=100)
    """Core limit in percent of containers without one; 0: none."""

    allocation_policy: Policy = Policy.SPREAD
    """Which GPU a share is taken from."""

    injection: Injection = Injection.FILE
    """How the library comes into processes."""

    device_list: DeviceList = DeviceList.ENVIRONMENT
    """How containers get their GPUs."""

    emulator_dir: Path | None = None
    """Folder of the emulated cards' state; with NVSHARE_DEVICE_LIST=emulated."""

    emulator_libraries: Path | None = None
    """Folder of the emulator's libraries on the host; with NVSHARE_DEVICE_LIST=emulated."""

    topology: bool = False
    """Kubelet is told the NUMA node of each GPU; its single-numa-node policy may then refuse pods."""

    selinux_label: str = ""
    """SELinux label of what is mounted into containers, as `system_u:object_r:container_file_t:s0`; empty: as the host
    has it.
    """

    quota_wait_seconds: float = Field(default=8.0, ge=0, le=20)
    """How long a container's start waits for its pod's quota; kubelet allows 30 s for all that is done before it."""

    absent_seconds: float = Field(default=60.0, ge=0)
    """How long a pod must be gone before its containers' folders go."""

    reconcile_seconds: float = Field(default=5.0, gt=0)
    """How often kubelet is asked who has which share, if nothing else happens."""

    @field_validator("gpu_memory", "default_memory", mode="before")
    @classmethod
    def _amount(cls, value: object) -> object:
        try:
            return parse_bytes(value) if isinstance(value, str) else value
        except QuantityError as error:
            raise ValueError(str(error)) from None

    @field_validator("gpus")
    @classmethod
    def _indices(cls, value: str) -> str:
        if value and not all(word.isascii() and word.isdecimal() for word in value.split(",")):
            raise ValueError("give indices of GPUs, such as 0,2")
        return value

    @field_validator("shares")
    @classmethod
    def _replicas(cls, value: str) -> str:
        try:
            parse_replicas(value)
        except ReplicasError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("ignored_xids")
    @classmethod
    def _xids(cls, value: str) -> str:
        try:
            parse_ignored_xids(value)
        except SettingError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _emulated(self) -> Settings:
        if self.device_list is DeviceList.EMULATED and self.emulated is None:
            raise ValueError("NVSHARE_DEVICE_LIST=emulated needs NVSHARE_EMULATOR_DIR and NVSHARE_EMULATOR_LIBRARIES")
        return self

    @property
    def gpu_indices(self) -> frozenset[int]:
        """Empty: all."""
        return frozenset(map(int, self.gpus.split(","))) if self.gpus else frozenset()

    @property
    def ignored(self) -> IgnoredXids:
        """As `ignored_xids` says."""
        return parse_ignored_xids(self.ignored_xids)

    @property
    def emulated(self) -> EmulatedCards | None:
        if self.emulator_dir is None or self.emulator_libraries is None:
            return None
        return EmulatedCards(self.emulator_dir, self.emulator_libraries)

    @property
    def libraries(self) -> Path:
        """Folder of the library's versions."""
        return self.node_dir / "lib"

    @property
    def rules(self) -> Rules:
        return Rules(
            replicas=parse_replicas(self.shares),
            overcommit_percent=round(self.overcommit * 100),
            default=Quota(memory_limit_bytes=self.default_memory, core_limit_percent=self.default_cores),
            policy=self.allocation_policy,
            tell_numa=self.topology,
        )

    @property
    def injections(self) -> Injections:
        return Injections(self.libraries, self.injection, self.device_list, self.emulated)

    @property
    def waits(self) -> Waits:
        return Waits(quota_seconds=self.quota_wait_seconds)
