"""Where kubelet's sockets and files are, below its folder (`/var/lib/kubelet` on a real node)."""

DEVICE_PLUGINS = "device-plugins"
REGISTRATION_SOCKET = "device-plugins/kubelet.sock"
CHECKPOINT = "device-plugins/kubelet_internal_checkpoint"
POD_RESOURCES_SOCKET = "pod-resources/kubelet.sock"
