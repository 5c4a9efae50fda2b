"""The watcher: pods in, quotas into the bucket, events out."""

import asyncio

import structlog

from nvshare.bus.hub import NotNowError
from nvshare.bus.subjects import node_token
from nvshare.quota_watcher.api import Api, RefusedError, UnreachableError
from nvshare.quota_watcher.event_writer import EventWriter
from nvshare.quota_watcher.events import Notice
from nvshare.quota_watcher.follower import Follower
from nvshare.quota_watcher.ledger import Ledger, News
from nvshare.quota_watcher.listing import Change, Gone
from nvshare.quota_watcher.notices import notice_of
from nvshare.quota_watcher.pods import MalformedPodError, Pod, parse_pod
from nvshare.quota_watcher.publisher import Publisher, QuotaBucket
from nvshare.quota_watcher.watching import Policy
from nvshare.v1.kubernetes_pb2 import PodNotice, PodQuota

_READ_FIRST_SECONDS = 0.25
_READ_AGAIN_SECONDS = 60.0
_ASK_SECONDS = 5.0

_log = structlog.get_logger()


class Watcher:
    """Nothing is lost when it is restarted, or when two of them run: what is in force is in the bucket and at the API
    server, both of which are read again, and writing the same twice changes nothing.
    """

    def __init__(self, api: Api, bucket: QuotaBucket, policy: Policy | None = None) -> None:
        self._api = api
        self._ledger = Ledger()
        self._publisher = Publisher(bucket, self._ledger.wanted)
        self._follower = Follower(api, self._changed, self._completed, policy)
        self._events = EventWriter(api)
        self._bucket_known = False
        self._read_again = asyncio.Event()
        self.refused_notices = 0
        self.failed_pods = 0

    @property
    def follower(self) -> Follower:
        return self._follower

    @property
    def ready(self) -> bool:
        """Whether all pods are known, and the bucket holds all of their quotas."""
        return self._follower.complete and self._bucket_known and self._publisher.settled

    def hub_changed(self, reachable: bool) -> None:
        """To be called when the hub is back: its bucket is read again, for it may have lost something."""
        if reachable:
            self._read_again.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        # Before the first pod: what a bad annotation leaves in force is in the bucket.
        while (held := await self._publisher.read()) is None:
            self._follower.active_at = asyncio.get_running_loop().time()
            await asyncio.sleep(_READ_FIRST_SECONDS)
        self._ledger.remember(held)
        self._bucket_known = True
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follower.run())
            tasks.create_task(self._publisher.run())
            tasks.create_task(self._events.run())
            tasks.create_task(self._keep_reading())

    async def handle_notice(self, subject: str, message: PodNotice) -> None:
        """Writes the event that a node asks for, on a pod of its own. Raises NotNowError when the API server does not
        answer: the notice is to come again.
        """
        notice = notice_of(message)
        if notice is None:
            self._refuse("nonsense", subject)
            return
        sender = subject.split(".")[3]  # the hub lets nobody else say so (docs/protocol.md, "The hub")
        pod = await self._pod_of(notice, sender)
        if pod is None:
            self._refuse("about a pod that is not its own", subject)
        elif not await self._events.write(_about(pod, notice.warning, notice.reason, notice.text, notice.container)):
            raise NotNowError("the event cannot be written now")

    def _refuse(self, why: str, subject: str) -> None:
        self.refused_notices += 1
        _log.warning("a notice of a node is refused", sent_on=subject, why=why)

    async def _pod_of(self, notice: Notice, node: str) -> Pod | None:
        """The pod that a notice is about, if it is on `node`. Raises NotNowError."""

        def is_it(pod: Pod | None) -> bool:
            return pod is not None and bool(pod.node) and node_token(pod.node) == node and notice.uid in ("", pod.uid)

        pod = self._follower.find(notice.namespace, notice.pod)
        if not is_it(pod):  # its node may have seen it before us
            try:
                async with asyncio.timeout(_ASK_SECONDS):
                    document = await self._api.pod(notice.namespace, notice.pod)
                pod = None if document is None else parse_pod(document)
            except (RefusedError, UnreachableError, TimeoutError) as error:
                raise NotNowError(f"cannot ask for the pod: {error}") from error
            except MalformedPodError:
                return None
        return pod if is_it(pod) else None

    def _changed(self, change: Change) -> None:
        pod = change.pod
        try:
            if isinstance(change, Gone):
                self._ledger.gone(pod)
            else:
                self._say(pod, self._ledger.seen(pod))
        except Exception:  # one pod must not keep all others from their quotas
            self.failed_pods += 1
            _log.exception("a pod cannot be handled; its quota stays", pod=str(pod))
        self._publisher.mark(pod.uid)

    def _say(self, pod: Pod, news: News) -> None:
        for change in news.changes:
            _log.info("quota changed", pod=str(pod), key=change.key, before=change.before, now=change.now)
        for fault in news.faults:
            _log.warning("annotation refused", pod=str(pod), key=fault.key, reason=fault.reason, text=fault.text)
            self._events.submit(_about(pod, True, fault.reason, fault.text))

    def _completed(self) -> None:
        self._read_again.set()

    async def _keep_reading(self) -> None:
        """Compares the bucket with what it should hold: after each list, when the hub is back, and now and then."""
        while True:
            try:
                async with asyncio.timeout(_READ_AGAIN_SECONDS):
                    await self._read_again.wait()
            except TimeoutError:
                pass
            self._read_again.clear()
            if await self._publisher.read() is not None and self._follower.complete:
                for uid, quota in self._publisher.superfluous.items():
                    if await self._is_gone(quota):
                        self._publisher.mark(uid)

    async def _is_gone(self, quota: PodQuota) -> bool:
        """Whether the pod of an entry that nobody wants is gone. The API server is asked: the entry may be that of a
        new pod which another watcher has seen already.
        """
        try:
            document = await self._api.pod(quota.namespace, quota.name)
            pod = None if document is None else parse_pod(document)
        except (RefusedError, UnreachableError, MalformedPodError) as error:
            _log.debug("cannot ask for a pod", pod=f"{quota.namespace}/{quota.name}", error=str(error))
            return False
        except ValueError:  # no pod can have such a name
            return True
        return pod is None or pod.uid != quota.uid or pod.ended or not pod.shares


def _about(pod: Pod, warning: bool, reason: str, text: str, container: str = "") -> Notice:
    return Notice(pod.namespace, pod.name, pod.uid, warning, reason, text, container)
