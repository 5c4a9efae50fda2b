{{- define "nvshare.hubIsOurs" -}}
{{- if not .Values.hub.existing.leafUrl }}yes{{ end -}}
{{- end -}}

{{- /* The hub's address for whom it knows as (list . "leaf") or (list . "watcher"): a node's server, or the quota watcher. */ -}}
{{- define "nvshare.hubUrl" -}}
{{- $root := index . 0 -}}
{{- $existing := $root.Values.hub.existing -}}
{{- $host := printf "%s-hub.%s.svc" (include "nvshare.fullname" $root) (include "nvshare.namespace" $root) -}}
{{- $tls := $root.Values.hub.tlsSecret -}}
{{- if eq (index . 1) "leaf" -}}
{{- $existing.leafUrl | default (printf "%s://%s:7422" (ternary "tls" "nats-leaf" (not (empty $tls))) $host) -}}
{{- else -}}
{{- $existing.url | default (printf "%s://%s:4222" (ternary "tls" "nats" (not (empty $tls))) $host) -}}
{{- end -}}
{{- end -}}

{{- define "nvshare.hubSecret" -}}
{{- .Values.hub.existing.secret | default .Values.hub.secret | default (printf "%s-hub" (include "nvshare.fullname" .)) -}}
{{- end -}}

{{- /* The secret with the certificates by which the hub's is judged; empty: the image's. */ -}}
{{- define "nvshare.hubCaSecret" -}}
{{- .Values.hub.existing.caSecret | default .Values.hub.tlsSecret -}}
{{- end -}}

{{- /* How "leaf" or "watcher" gets into the hub. Call this, and those below, as (list . "leaf"). */ -}}
{{- define "nvshare.hubEnvironment" -}}
{{- $root := index . 0 -}}
- name: NVSHARE_HUB_URL
  value: {{ include "nvshare.hubUrl" . | quote }}
- name: NVSHARE_HUB_CREDENTIALS
  value: /etc/nvshare/hub/{{ index . 1 }}
{{- if include "nvshare.hubCaSecret" $root }}
- name: NVSHARE_HUB_CA
  value: /etc/nvshare/hub-ca/ca.crt
{{- end }}
{{- end -}}

{{- define "nvshare.hubMounts" -}}
- name: hub
  mountPath: /etc/nvshare/hub
  readOnly: true
{{- if include "nvshare.hubCaSecret" (index . 0) }}
- name: hub-ca
  mountPath: /etc/nvshare/hub-ca
  readOnly: true
{{- end }}
{{- end -}}

{{- define "nvshare.hubVolumes" -}}
{{- $root := index . 0 -}}
- name: hub
  secret:
    secretName: {{ include "nvshare.hubSecret" $root }}
    defaultMode: 0440
    # Nobody gets the other one's password.
    items:
      - key: {{ index . 1 }}
        path: {{ index . 1 }}
{{- with include "nvshare.hubCaSecret" $root }}
- name: hub-ca
  secret:
    secretName: {{ . }}
    items:
      - key: ca.crt
        path: ca.crt
{{- end }}
{{- end -}}
