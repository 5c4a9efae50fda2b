{{- /* What the two DaemonSets of a node have in common. */ -}}

{{- /* The node's folder has the same path inside as on the host: paths in it go to kubelet, which is outside. */ -}}
{{- define "nvshare.nodeEnvironment" -}}
- name: NVSHARE_NODE_DIR
  value: {{ .Values.nodeFolder | quote }}
{{- end -}}

{{- /* What scheduler and device plugin need to ask the driver: all GPUs of the node, and of the driver its management
library; or the same of the emulator. */ -}}
{{- define "nvshare.driverEnvironment" -}}
{{- if .Values.emulated.gpus -}}
{{- include "nvshare.environment" (dict
      "LD_LIBRARY_PATH" (include "nvshare.emulatorLibraries" .)
      "NVSHARE_EMULATOR_DEVICES" .Values.emulated.gpus
      "NVSHARE_EMULATOR_DIR" (include "nvshare.emulatorState" .)
      "NVSHARE_EMULATOR_MEMORY" .Values.emulated.gpuMemory
    ) }}
{{- else -}}
- name: NVIDIA_VISIBLE_DEVICES
  value: {{ ternary "/var/run/nvidia-container-devices" "all" (eq .Values.injection.devices "mounts") }}
- name: NVIDIA_DRIVER_CAPABILITIES
  value: utility
{{- end }}
{{- end -}}

{{- define "nvshare.emulatorLibraries" -}}
{{ .Values.nodeFolder }}/emulator
{{- end -}}

{{- define "nvshare.emulatorState" -}}
{{ .Values.nodeFolder }}/emulated-cards
{{- end -}}

{{- /* Where the container toolkit believes mounts only, it is asked by one. */ -}}
{{- define "nvshare.driverMounts" -}}
{{- if and (eq .Values.injection.devices "mounts") (not .Values.emulated.gpus) -}}
- name: all-gpus
  mountPath: /var/run/nvidia-container-devices/all
{{- end }}
{{- end -}}

{{- define "nvshare.driverVolumes" -}}
{{- if and (eq .Values.injection.devices "mounts") (not .Values.emulated.gpus) -}}
- name: all-gpus
  hostPath:
    path: /dev/null
{{- end }}
{{- end -}}

{{- /* Root, because the node's folder and kubelet's sockets are root's; without any right beyond that but those that are
given, as (list . (list "CAPABILITY" …)). */ -}}
{{- define "nvshare.nodeSecurity" -}}
{{- $root := index . 0 -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsUser: 0
capabilities:
  drop: [ALL]
  {{- with index . 1 }}
  add: {{ toJson . }}
  {{- end }}
seccompProfile:
  type: RuntimeDefault
{{- with $root.Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "nvshare.nodeMounts" -}}
- name: node
  mountPath: {{ .Values.nodeFolder }}
- name: temporary
  mountPath: /tmp
{{- end -}}

{{- define "nvshare.nodeVolumes" -}}
- name: node
  hostPath:
    path: {{ .Values.nodeFolder }}
    type: DirectoryOrCreate
- name: temporary
  emptyDir: {}
{{- end -}}

{{- /* Numbers of shares as the device plugin reads them: `10,0=4`. */ -}}
{{- define "nvshare.shares" -}}
{{- $parts := list (toString .Values.sharing.shares) -}}
{{- range $gpu, $shares := .Values.sharing.sharesByGpu -}}
{{- $parts = append $parts (printf "%s=%v" $gpu $shares) -}}
{{- end -}}
{{- join "," $parts -}}
{{- end -}}

{{- /* A DaemonSet's; with OnDelete the settings of a rolling update mean nothing. Call with the component's values. */ -}}
{{- define "nvshare.updateStrategy" -}}
type: {{ .updateStrategy.type }}
{{- if eq .updateStrategy.type "RollingUpdate" }}
{{- with .updateStrategy.rollingUpdate }}
rollingUpdate:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}
