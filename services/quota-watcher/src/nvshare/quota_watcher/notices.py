"""What nodes want said of pods, as events. Pure. A notice comes from a node: it is checked before it is believed."""

import re

from nvshare.quota_watcher.events import Notice
from nvshare.v1.kubernetes_pb2 import PodNotice

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_UID = re.compile(r"[A-Za-z0-9-]{0,64}", re.ASCII)
_REASON = re.compile(r"[A-Z][A-Za-z0-9]{0,127}", re.ASCII)


def notice_of(message: PodNotice) -> Notice | None:
    """The event that `message` asks for; None: it is nonsense."""
    pod = message.pod
    good = (
        _NAME.fullmatch(pod.namespace)
        and _NAME.fullmatch(pod.name)
        and (not pod.container or _NAME.fullmatch(pod.container))
        and _UID.fullmatch(pod.uid)
        and _REASON.fullmatch(message.reason)
        and message.text
    )
    if not good:
        return None
    text = "".join(character if character.isprintable() else " " for character in message.text)
    return Notice(pod.namespace, pod.name, pod.uid, message.warning, message.reason, text, pod.container)
