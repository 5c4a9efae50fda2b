"""The few requests that the command makes to the API server of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

import aiohttp

from nvshare.bus.api_access import Access, AccessError
from nvshare.cli.errors import CommandError

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_NOT_FOUND = 404
_FORBIDDEN = 403

Object = dict[str, Any]


class ApiError(Exception):
    """The server refused, or did not answer. `code` 0: no answer, which may be another one the next time."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code == 0 or self.code == 429 or self.code >= 500


class PodApi:
    """Pods of one namespace; an asynchronous context. Raises ApiError, and CommandError for unusable certificates."""

    def __init__(self, access: Access, namespace: str) -> None:
        self._access = access
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
        self._session = aiohttp.ClientSession(timeout=timeout, headers={"User-Agent": "nvshare"})
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def create(self, pod: Object) -> None:
        """Makes a pod."""
        await self._request("POST", "", body=pod)

    async def select(self, label: str) -> list[Object]:
        """The pods with this label, `name=value`."""
        answer = await self._request("GET", "", {"labelSelector": label})
        items = answer.get("items") if isinstance(answer, dict) else None
        return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

    async def log(self, name: str) -> str:
        """All that its container has written."""
        answer = await self._request("GET", f"/{name}/log")
        return answer if isinstance(answer, str) else str(answer)

    async def delete(self, name: str, grace_seconds: int) -> None:
        """Ends a pod, if it is there."""
        try:
            await self._request("DELETE", f"/{name}", body={"gracePeriodSeconds": grace_seconds})
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise

    async def _request(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: Object | None = None
    ) -> Object | str:
        assert self._session is not None, "the context was not entered"
        try:
            headers = await asyncio.to_thread(self._access.headers)  # a program may have to be asked
            tls = self._access.tls()
            async with self._session.request(
                method,
                self._access.url + self._path + path,
                params=query,
                json=body,
                headers=headers,
                ssl=True if tls is None else tls,
                server_hostname=self._access.tls_server_name,
            ) as response:
                if response.content_type != "application/json":
                    text = await response.text(errors="replace")
                    if response.status < 400:
                        return text
                    raise ApiError(response.status, text.strip() or str(response.reason))
                answer = await response.json()
        except AccessError as error:
            raise CommandError(str(error)) from error
        except (TimeoutError, aiohttp.ClientError, ValueError, OSError) as error:
            words = str(error) or type(error).__name__
            raise ApiError(0, f"the API server {self._access.url} does not answer: {words}") from error
        if response.status >= 400:
            message = answer.get("message") if isinstance(answer, dict) else None
            hint = ": ask for the rights on pods and pods/log" if response.status == _FORBIDDEN else ""
            raise ApiError(response.status, f"{message or response.reason}{hint}")
        return answer if isinstance(answer, dict) else str(answer)
