"""The settings, from the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Each is read from NVSHARE_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="NVSHARE_")

    hub_url: str = "nats://127.0.0.1:4222"
    """Where the hub is, as `nats://nvshare-hub:4222`."""

    hub_credentials: Path | None = None
    """A file with `user:password`, a token, or a JWT and seed as `nsc` writes them; else what stands in the URL."""

    hub_ca: Path | None = None
    """Certificates by which the hub's is judged; else the system's."""

    api_server: str = ""
    """A plain address of the API server, as `http://127.0.0.1:8001`; empty: by the kubeconfig file, else in-cluster."""

    kubeconfig: Path | None = None
    """A kubeconfig file, whose current context is used; else the pod's service account."""

    health_port: int = Field(default=0, ge=0, le=65535)
    """Where `/livez` and `/readyz` are answered; 0: nowhere."""
